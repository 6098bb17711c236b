"""An evaluation from pool to report, by the functions behind the command line."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynfusion.edges.ray_cluster import cluster
from dynfusion.fusion.api import FusionModel
from dynfusion.fusion.model import FusionNetwork, ModelSettings
from dynfusion.store.dataset import Dataset
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs
from dynfusion.verbs import evaluate as verb
from dynfusion.verbs.evaluate import evaluate_models
from dynfusion.verbs.evaluated_models import open_models
from dynfusion.verbs.evaluation_settings import read_settings
