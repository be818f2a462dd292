"""The settings of each verb: one frozen dataclass, checked when it is built."""

from crackvae.config.common import BUILTIN, ClusterConfig, ScoringConfig, VerbConfig
from crackvae.config.output import DoctorConfig, ExportConfig, FindingsConfig, InfoConfig, ReportConfig, ReviewConfig
from crackvae.config.registry import CompareConfig, JudgedConfig, PromoteConfig, RollbackConfig, user_name
from crackvae.config.scoring import (
    CalibrateConfig,
    ChangeConfig,
    CompactConfig,
    EvaluateConfig,
    LiveConfig,
    NightlyConfig,
    ScoreConfig,
)
from crackvae.config.settings import flag, limit_of, metres_of, parse_value, read_settings, time_of
from crackvae.config.training import (
    HEADS,
    SEGMENTER_COARSE,
    SEGMENTER_HEADS,
    AdaptConfig,
    DemoConfig,
    LearnConfig,
    PartitionConfig,
    SiteConfig,
    TrainConfig,
    with_preset,
)

__all__ = [
    "BUILTIN",
    "HEADS",
    "SEGMENTER_COARSE",
    "SEGMENTER_HEADS",
    "AdaptConfig",
    "CalibrateConfig",
    "ChangeConfig",
    "ClusterConfig",
    "CompactConfig",
    "CompareConfig",
    "DemoConfig",
    "DoctorConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FindingsConfig",
    "InfoConfig",
    "JudgedConfig",
    "LearnConfig",
    "LiveConfig",
    "NightlyConfig",
    "PartitionConfig",
    "PromoteConfig",
    "ReportConfig",
    "ReviewConfig",
    "RollbackConfig",
    "ScoreConfig",
    "ScoringConfig",
    "SiteConfig",
    "TrainConfig",
    "VerbConfig",
    "flag",
    "limit_of",
    "metres_of",
    "parse_value",
    "read_settings",
    "time_of",
    "user_name",
    "with_preset",
]
