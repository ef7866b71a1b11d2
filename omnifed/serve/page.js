"use strict";
// Nothing is fetched from elsewhere, and no file name is sent: the server sees numbers and the end of the name.

const SUFFIX = /(\.nii\.gz|\.nii|\.png|\.jpe?g|\.tiff?|\.bmp|\.dcm)$/i;
const by = (id) => document.getElementById(id);
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
let about = { labels: [], max_mb: 0 };
let work = null; // the job that is under way: { id, stop }
let shown = []; // results: { ...as the server says, name, url, pictures }
let current = 0;

class Fault extends Error {
  constructor(errors) {
    super(errors.map((error) => error.code).join(" "));
    this.errors = errors;
  }
}

const lost = { code: "", rule: "The page lost its server.", seen: "", remedy: "Look whether omnifed serve still runs." };

async function call(method, path, body, stop) {
  let answer;
  try {
    answer = await fetch(path, { method, body, signal: stop && stop.signal });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Fault([lost]);
  }
  if (answer.ok) return answer;
  let error = { ...lost, rule: `The server answered ${answer.status}.` };
  try {
    error = (await answer.json()).error;
  } catch { /* no JSON: the status says it */ }
  throw new Fault([error]);
}

// --- what was dropped or chosen

async function entries(entry) {
  if (entry.isFile) {
    const file = await new Promise((done, failed) => entry.file(done, failed));
    return [{ file, path: entry.fullPath }];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) { // a reader gives at most 100 at a time
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) return found;
    for (const one of some) found.push(...await entries(one));
  }
}

async function dropped(transfer) {
  const items = [...transfer.items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry());
  if (!items.length || !items.every(Boolean)) return [...transfer.files].map((file) => ({ file, path: file.name }));
  return (await Promise.all(items.map(entries))).flat();
}

const chosen = (input) => [...input.files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));

// --- one job

async function segment(found) {
  const files = found.filter(({ file }) => !file.name.startsWith(".") && file.name !== "DICOMDIR");
  if (!files.length) return;
  await leave();
  files.sort((a, b) => a.path.localeCompare(b.path, "en", { numeric: true }));
  clear();
  const mine = { id: null, stop: new AbortController() };
  work = mine;
  try {
    const bytes = files.reduce((sum, { file }) => sum + file.size, 0);
    say("Sending", 0);
    mine.id = (await (await call("POST", "/jobs", JSON.stringify({ files: files.length, bytes }), mine.stop)).json()).id;
    let sent = 0;
    for (const [k, { file }] of files.entries()) {
      say(files.length > 1 ? `Sending file ${k + 1} of ${files.length}` : "Sending", bytes ? sent / bytes : 0);
      const suffix = (file.name.match(SUFFIX) || [""])[0].toLowerCase();
      await call("PUT", `/jobs/${mine.id}/files/${k}?suffix=${encodeURIComponent(suffix)}`, file, mine.stop);
      sent += file.size;
    }
    await call("POST", `/jobs/${mine.id}/start`, undefined, mine.stop);
    const job = await finished(mine);
    tell(job.errors.map((error) => ({ ...error, seen: named(error.seen, files) })));
    if (job.results.length) await fetched(mine, job.results, files);
  } catch (error) {
    if (error.name !== "AbortError") tell(error instanceof Fault ? error.errors : [{ ...lost, rule: String(error) }]);
  }
  if (work === mine) await leave();
}

async function finished(mine) {
  const begin = Date.now();
  for (let pause = 100; ; pause = Math.min(500, pause * 1.3)) {
    const job = await (await call("GET", `/jobs/${mine.id}`, undefined, mine.stop)).json();
    if (job.state === "done" || job.state === "failed") return job;
    const seconds = Math.round((Date.now() - begin) / 1000);
    say(job.state === "waiting" ? "Waiting for another prediction" : `Segmenting${seconds ? `, ${seconds} s` : ""}`);
    await wait(pause);
  }
}

// Everything is taken over into this tab: the server then deletes the job.
async function fetched(mine, results, files) {
  const load = async (path) =>
    URL.createObjectURL(await (await call("GET", `/jobs/${mine.id}/results/${path}`, undefined, mine.stop)).blob());
  for (const [n, result] of results.entries()) {
    result.name = nameOf(result, files);
    result.url = await load(`${n}/output`);
    result.pictures = new Array(result.overlays).fill(null);
  }
  shown = results;
  const middle = (result) => Math.floor(result.overlays / 2);
  const total = results.reduce((sum, result) => sum + result.overlays, 0);
  let done = 0;
  for (const [n, result] of results.entries()) {
    // From the middle outwards: that is what is looked at first.
    const far = (k) => Math.abs(k - middle(result));
    const order = result.pictures.map((_, k) => k).sort((a, b) => far(a) - far(b));
    for (const k of order) {
      result.pictures[k] = await load(`${n}/pictures/${k}`);
      done += 1;
      if (done === 1) {
        present(results, middle(results[0]));
      } else if (n === current && k === Number(by("slice").value) - 1) {
        slice();
      }
      say(`Fetching picture ${done} of ${total}`, done / total);
    }
  }
  if (!total) present(results, 0);
}

async function leave() {
  const mine = work;
  work = null;
  by("work").hidden = true;
  if (!mine) return;
  mine.stop.abort();
  if (mine.id) await fetch(`/jobs/${mine.id}`, { method: "DELETE", keepalive: true }).catch(() => {});
}

function nameOf(result, files) {
  const suffix = result.suffix.startsWith("_") ? result.suffix : `_seg${result.suffix}`;
  if (result.file !== null && files[result.file]) return files[result.file].file.name.replace(SUFFIX, "") + suffix;
  const folder = files[0].path.split("/").filter(Boolean);
  return (folder.length > 1 ? folder[folder.length - 2] : "series") + suffix;
}

const named = (seen, files) => seen.replace(/file (\d{5})[.\w]*/g, (text, n) => files[Number(n)]?.file.name || text);

// --- what is seen

function say(text, share) {
  by("work").hidden = false;
  if (by("status").textContent !== text) by("status").textContent = text;
  if (share === undefined) by("bar").removeAttribute("value");
  else by("bar").value = share;
}

function clear() {
  for (const result of shown) for (const url of [result.url, ...result.pictures]) if (url) URL.revokeObjectURL(url);
  shown = [];
  by("errors").replaceChildren();
  by("result").hidden = true;
}

function make(tag, text, parts = {}) {
  const element = Object.assign(document.createElement(tag), parts);
  if (text) element.append(text);
  return element;
}

function tell(errors) {
  for (const { code, rule, seen, remedy } of errors) {
    const card = make("div", "", { className: "card error" });
    card.append(make("h2", code ? `${code}: not segmented` : "Not segmented"), make("p", rule));
    if (seen) card.append(make("p", `Seen: ${seen}`));
    if (remedy) card.append(make("p", `What to do: ${remedy}`));
    by("errors").append(card);
  }
}

function present(results, k) {
  by("pick").replaceChildren(...results.map((result, n) => make("option", result.name, { value: n })));
  by("pick-row").hidden = results.length < 2;
  by("result").hidden = false;
  choose(0, k);
  by("result-title").focus({ preventScroll: true });
  by("result").scrollIntoView({ block: "nearest" });
}

function choose(n, k) {
  current = n;
  const result = shown[n];
  by("slice").max = Math.max(1, result.overlays);
  by("slice").value = k + 1;
  by("slice-row").hidden = result.overlays < 2;
  by("result-title").textContent = `Result: ${result.name}`;
  const volumes = Object.values(result.labels).some((size) => size.ml !== null);
  by("amount").textContent = volumes ? "Volume" : "Pixels";
  by("legend").replaceChildren(...about.labels.map((label) => row(label, result.labels[label.name])));
  by("warnings").replaceChildren(...result.warnings.map((text) => make("li", text)));
  by("download").href = result.url;
  by("download").download = result.name;
  by("download").textContent = { dicom: "Download DICOM SEG", nifti: "Download NIfTI", image: "Download PNG" }[result.kind];
  const slices = result.slices > 1 ? `${result.slices} slices, ` : "";
  const palette = result.kind === "image" ? " The file holds label numbers, with these colours as its palette." : "";
  by("took").textContent = `${slices}${result.seconds.toFixed(1)} s.${palette}`;
  slice();
}

function row(label, size) {
  const line = make("tr");
  const name = make("th", "", { scope: "row" });
  const swatch = make("span", "", { className: "swatch" });
  swatch.style.backgroundColor = label.colour;
  name.append(swatch, label.name);
  line.append(name, make("td", amount(size)));
  if (!size || !size.pixels) line.className = "none";
  return line;
}

function amount(size) {
  if (!size || !size.pixels) return "not found";
  if (size.ml === null) return size.pixels.toLocaleString("en");
  const digits = size.ml < 1 ? 3 : 1;
  return `${size.ml.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })} ml`;
}

function slice() {
  const result = shown[current];
  const k = Number(by("slice").value);
  const text = result.overlays > 1 ? `${k} of ${result.overlays}` : "";
  by("slice-text").textContent = text;
  by("slice").setAttribute("aria-valuetext", `slice ${text}`);
  const url = result.pictures[k - 1];
  if (url) by("picture").src = url;
  else by("picture").removeAttribute("src");
  const labels = about.labels.filter((label) => result.labels[label.name]?.pixels).map((label) => label.name);
  by("picture").alt = `${result.overlays > 1 ? `Slice ${text}` : "The image"} with ${labels.join(", ") || "nothing"} drawn on it`;
}

async function start() {
  about = await (await call("GET", "/model")).json();
  by("name").textContent = about.name;
  by("notice").textContent = about.notice;
  by("limit").textContent = `${about.max_mb} MB`;
  const facts = [
    ["Name", about.name], ["Modality", about.modality], ["Labels", about.labels.map((label) => label.name).join(", ")],
    ["Input", `${about.size[0]} x ${about.size[1]} pixels`], ["Precision", about.precision],
    ...about.warnings.map((text) => ["Note", text]), ["SHA-256", about.sha256, "code"],
  ];
  for (const [name, value, style] of facts) by("about").append(make("dt", name), make("dd", value, { className: style || "" }));
}

const pick = (input) => {
  const found = chosen(input);
  input.value = "";
  segment(found);
};
by("choose-files").onclick = () => by("files").click();
by("choose-folder").onclick = () => by("folder").click();
by("files").onchange = (event) => pick(event.target);
by("folder").onchange = (event) => pick(event.target);
by("cancel").onclick = () => leave().then(() => by("choose-files").focus());
by("slice").oninput = slice;
by("pick").onchange = (event) => choose(Number(event.target.value), Math.floor(shown[event.target.value].overlays / 2));
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    by("drop").classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => event.relatedTarget || by("drop").classList.remove("over"));
document.addEventListener("drop", async (event) => {
  event.preventDefault();
  by("drop").classList.remove("over");
  segment(await dropped(event.dataTransfer));
});
addEventListener("pagehide", () => { leave(); });
start().catch((error) => tell(error.errors || [{ ...lost, rule: String(error) }]));
