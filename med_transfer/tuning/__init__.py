"""The search for a better configuration, inside the development folds; the test scans stay apart."""

from med_transfer.tuning.config import SearchSpace as SearchSpace
from med_transfer.tuning.config import TuneConfig as TuneConfig
from med_transfer.tuning.config import TuningConfig as TuningConfig
from med_transfer.tuning.record import Tuning as Tuning
from med_transfer.tuning.record import advantage as advantage
from med_transfer.tuning.run import tune as tune
