"""The site's side of every task: the same object in process, under Ray and on a deployed federation."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import omnifed
from omnifed.data.prepare import SiteData
from omnifed.errors import OmniFedError
from omnifed.evaluation.metrics import mean_dice, score_cases
from omnifed.evaluation.predict import predict_masks
from omnifed.evaluation.scores import summarise
from omnifed.federation.protocol import MIN_PROTOCOL, PROTOCOL
from omnifed.federation.replies import EvaluateReply, FailedReply, FitReply, HelloReply, Reply
from omnifed.federation.tasks import (
    BenchTask,
    EvaluateTask,
    ExportTask,
    FitTask,
    HelloTask,
    PrivateTask,
    Task,
    TeachTask,
    TrialTask,
    UnmaskTask,
)
from omnifed.models.base import partition
from omnifed.progress import Progress
from omnifed.states import State
from omnifed.trust.identity import SiteIdentity
from omnifed_client import benching, exporting, secure, student, teaching, trials
from omnifed_client.older import seal_older
from omnifed_client.store import SiteStore

log = logging.getLogger("omnifed.client")


class SiteExecutor:
    """Executes tasks on one site's data and keeps the site's state.

    Args:
        data: the site's prepared splits.
        folder: state of the site on disk.
        checkpoints: folder of large teacher checkpoints at the site.
        progress: told about steps of long work.
        identity: of the site; private rounds need it.
        epsilon_limit: of the site's policy: what its patients may spend in all campaigns together.
    """

    def __init__(
        self,
        data: SiteData,
        folder: Path,
        *,
        checkpoints: Path | None = None,
        progress: Progress | None = None,
        identity: SiteIdentity | None = None,
        epsilon_limit: float | None = None,
    ) -> None:
        self.data, self.store = data, SiteStore(folder)
        self.checkpoints, self.progress, self.identity = checkpoints, progress, identity
        self.epsilon_limit = epsilon_limit
        seal_older(self.store)

    def execute(self, task: Task, state: State) -> tuple[Reply, State]:
        """Does one task. Never raises for what a site can cause: a failure is a reply with number and rule alone.

        Args:
            task: what to do; a task that was finished before is answered from the store.
            state: arrays that travel with it.

        Returns:
            The reply and the arrays that travel with it.
        """
        try:
            store = self.store.of(task.campaign)
            done = store.finished(task)
            if done is not None:
                return done
            started = time.perf_counter()
            reply, upload = self._do(task, state, store)
            reply = reply.model_copy(update={"seconds": time.perf_counter() - started})
            if not isinstance(task, HelloTask):
                store.finish(task, reply, upload)
            if isinstance(task, UnmaskTask):
                secure.finished(task, store)
            return reply, upload
        except OmniFedError as error:
            log.error("task %s failed: %s", task.id, error)
            return self._failed(task, error.code, error.rule), {}
        except MemoryError:
            rule = "The task must fit into the site's memory."
            return self._failed(task, "OF511", rule), {}
        except Exception as error:
            # The type's name is safe; the message might hold a path or a name, so it stays here.
            rule = f"A task must not fail in an unforeseen way ({type(error).__name__}); the site's log has the cause."
            log.exception("task %s failed", task.id, exc_info=error)
            return self._failed(task, "OF512", rule), {}

    def _do(self, task: Task, state: State, store: SiteStore) -> tuple[Reply, State]:
        too_old = task.oldest > PROTOCOL if isinstance(task, HelloTask) else task.protocol > PROTOCOL
        if too_old or task.protocol < MIN_PROTOCOL:
            raise OmniFedError(
                "OF513",
                f"Both ends must understand each other; this site speaks protocol {MIN_PROTOCOL} to {PROTOCOL}.",
                seen=f"the coordinator speaks {task.protocol}",
                remedy=f"Upgrade omnifed {'at this site' if too_old else 'at the coordinator'}.",
            )
        if isinstance(task, HelloTask):
            return self._hello(task), {}
        if isinstance(task, TeachTask):
            return teaching.teach(task, self.data, store, self.checkpoints, self.progress), {}
        if isinstance(task, FitTask):
            fitted = self._fit(task, state, store)
            exporting.note_origin(task, store)
            return fitted
        if isinstance(task, PrivateTask):
            return secure.answer(task, store, self.identity)
        if isinstance(task, ExportTask):
            return exporting.export(task, self.data, store, self.identity), {}
        if isinstance(task, TrialTask):
            lesson = teaching.lesson_of(task.teacher, store)
            return trials.run_trial(task, state, self.data, store, lesson, self.progress), {}
        if isinstance(task, BenchTask):
            return benching.measure(task, self.data, store, self.progress), {}
        return self._evaluate(task, state, store), {}

    def _fit(self, task: FitTask, state: State, store: SiteStore) -> tuple[FitReply, State]:
        def train() -> tuple[FitReply, State]:
            lesson = teaching.lesson_of(task.teacher, store)
            return student.fit_round(task, state, self.data, store, lesson, self.progress, self.epsilon_limit)

        private = task.privacy.mode == "private"
        return secure.fit(task, state, store, self.identity, train) if private else train()

    def _hello(self, task: HelloTask) -> HelloReply:
        config, data = self.data.config, self.data
        return HelloReply(
            id=task.id,
            site=config.name,
            version=omnifed.__version__,
            channels=config.channels,
            classes=len(config.labels),
            labels=tuple(config.labels.values()),
            modality=config.modality,
            image_size=(int(data.train.images.shape[2]), int(data.train.images.shape[3])),
            train=int(data.train.has_mask.sum()),
            unlabelled=int((~data.train.has_mask).sum()),
            val=len(data.val),
            test=len(data.test),
            skipped=len(data.skipped),
            instance=self.store.instance,
        )

    def _evaluate(self, task: EvaluateTask, state: State, store: SiteStore) -> EvaluateReply:
        split = self.data.val if task.split == "val" else self.data.test
        if task.which == "teacher":
            teacher = teaching.load_teacher(task.teacher, self.data, store, self.checkpoints)
            predicted = predict_masks(teacher.predict, split)
        else:
            weights = self._weights(task, state, store)
            predicted = predict_masks(student.student_from(weights, task.student, self.data.config.spec), split)
            if task.adopt:
                self._adopt(task, store, weights, mean_dice(predicted, split))
        cases = score_cases(predicted, split)
        store.save_evaluation(task.arm, task.which, task.split, predicted, cases.values)
        scores = summarise(cases, list(self.data.config.labels.values()))
        return EvaluateReply(id=task.id, site=self.data.config.name, n=len(cases.ids), scores=scores)

    def _weights(self, task: EvaluateTask, state: State, store: SiteStore) -> State:
        if task.which == "given":
            return state
        if task.which == "adopted":
            return store.adopted(task.arm)[0]
        own = store.last_model(task.arm)
        if not own:
            return state
        groups = student.student_from(own, task.student, self.data.config.spec).layer_groups()
        return own | student.incoming(state, partition(groups, task.local_layers), first=False)

    def _adopt(self, task: EvaluateTask, store: SiteStore, weights: State, dice: float) -> None:
        if task.split != "val":
            raise OmniFedError("OF515", "A model is adopted by its validation cases, never by its test cases.")
        best, best_dice = store.adopted(task.arm)
        better = dice >= best_dice
        store.save_final(task.arm, weights if better else best, dice if better else best_dice)

    def _failed(self, task: Task, code: str, rule: str) -> FailedReply:
        return FailedReply(id=task.id, site=self.data.config.name, code=code, rule=rule)
