"""Everything this project stores in MLflow, by name.

====================================  =========================================================
experiment ``corrfractal``
  tag ``corrfractal.store``           path of a local store when its locations were written
  tag ``mlflow.experimentKind``       kind of the experiment: model training
run                                   one per training, one per ``precompute --track``
  parameters                          the training configuration, dotted names
  tag ``stage``                       ``train`` or ``precompute``
  tag ``shards.digest``               digest of the data set's manifest
  tag ``shards.path``                 folder of the shards
  tag ``git.commit``                  commit of the code, or ``unknown``
  tag ``git.dirty``                   ``true``, ``false`` or ``unknown``
  tag ``version.PACKAGE``             installed version of a package that affects numbers
  metric ``DATASET/MEASURE``          an evaluation, such as ``davis2017-val/J``
  artefact ``manifest.json``          the data set's manifest
  artefacts ``index/*.parquet``       shards and sources of the data set
  artefact ``environment.txt``        every installed package
  artefact ``scores.*.json``          the full result of an evaluation
  tag ``mlflow.note.content``         description of the run, see ``pages``
registered model ``corrfractal``
  alias ``candidate``                 the newest version
  alias ``champion``                  the version that passed the gate last
  tag ``move.TIME``                   JSON of ``promotion.Move``: one change of ``champion``
model version                         one per training run
  description                         see ``pages``
  tag ``shards.digest``               as for the run
  tag ``weights.sha256``              SHA-256 of ``model.safetensors``
  tag ``checkpoint.path``             checkpoint the weights came from; stays in the run's folder
  tag ``checkpoint.step``             its training step
  tag ``checkpoint.sha256``           its SHA-256
  tag ``scores.DATASET.BASIS``        JSON of ``scores.Scores``: one evaluation
====================================  =========================================================
"""

PROJECT = "corrfractal"
"""Name of the MLflow experiment and of the registered model."""

CANDIDATE = "candidate"
CHAMPION = "champion"

STORE_TAG = "corrfractal.store"
EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Tag by which MLflow's page opens an experiment on its training runs, not on traces of GenAI.
MLflow 3.17 ignores it in favour of a switch that each browser keeps, see ``pages.browse_hint``.
MLflow has no constant for it; the page writes the same tag when a user chooses a kind."""
STAGE_TAG = "stage"
DIGEST_TAG = "shards.digest"
SHARDS_PATH_TAG = "shards.path"
COMMIT_TAG = "git.commit"
DIRTY_TAG = "git.dirty"
WEIGHTS_TAG = "weights.sha256"
CHECKPOINT_PATH_TAG = "checkpoint.path"
CHECKPOINT_STEP_TAG = "checkpoint.step"
CHECKPOINT_SHA256_TAG = "checkpoint.sha256"
SCORES_PREFIX = "scores."
MOVE_PREFIX = "move."

LOGGED_FILES = ("manifest.json", "index/shards.parquet", "index/sources.parquet")
"""Files of a data set that every run has a copy of; lineage reads them."""
UNKNOWN = "unknown"
"""Value of a tag, or shown for a missing one."""
