"""Sentences of the model card that are the same for every campaign."""

USE = (
    "**Research use only. Not a medical device.** The models of this campaign outline structures in medical images, "
    "slice by slice, for research and for testing the method. They are not made for diagnosis, for planning a "
    "treatment or for any decision about a patient."
)
METHODS = {
    "local": "each site trained alone; nothing was shared",
    "fedavg": "FedAvg (McMahan et al., 2017): all weights averaged",
    "fedprox": "FedProx (Li et al., 2020): FedAvg with a proximal term",
    "fedbn": "FedBN (Li et al., 2021): averaged, normalisation layers stayed at the site",
    "omnikd": "OmniKD: FedBN, and each student also learned from its own site's teacher, which never left the site",
    "central": "all images in one place (a simulation's ceiling; no federation)",
}
MODES = {
    "none": "nothing of a model was shared",
    "mean": "the coordinator saw each site's update and averaged them",
    "private": "secure aggregation: the coordinator saw the sum of the updates, no single one; it does not hide what "
    "the averaged model itself tells",
    "robust": "the coordinator saw each site's update and bounded what one site could do to the average (rule {rule}); "
    "no rule stops a site that stays within the length of the others and is wrong on purpose",
}
LIMITS = """## Limits

- The scores are those of the sites' own test cases. At another hospital, scanner or patient group they may be lower:
  test there before any use.
- The intervals cover the choice of test patients, not that of the training run: another seed moves every figure.
- A class with few training cases may be missed altogether. A model knows its own classes alone, and finds something in
  images that it was never meant for.
- Nobody has looked for unequal quality between groups of patients: the campaign knows neither age nor sex nor origin.
- A trained model can hold traces of its training patients. `omnifed audit-privacy` looks for them at each site."""
