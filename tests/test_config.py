"""Settings: what is accepted, what is refused with which message, and how flags and TOML files are read."""

import json
from dataclasses import FrozenInstanceError, fields
from functools import partial
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import crackvae
from crackvae.config import (
    AdaptConfig,
    CalibrateConfig,
    CompareConfig,
    DemoConfig,
    EvaluateConfig,
    LiveConfig,
    NightlyConfig,
    PartitionConfig,
    PromoteConfig,
    ScoreConfig,
    TrainConfig,
    flag,
    limit_of,
    parse_value,
    read_settings,
    with_preset,
)
from crackvae.errors import ConfigError

# What each verb must be given.
REQUIRED = {
    AdaptConfig: {"images": "set", "model": "new"},
    PartitionConfig: {"images": "set", "out": "out"},
    TrainConfig: {"manifest": "m.parquet", "model": "model"},
    CalibrateConfig: {"model": "model", "manifest": "m.parquet"},
    EvaluateConfig: {"manifest": "m.parquet", "out": "out"},
    ScoreConfig: {"images": ("set",)},
    DemoConfig: {},
}
VERBS = list(REQUIRED)
REQUIRED_ALSO = {
    NightlyConfig: {"images": ("set",), "out": "out"},
    CompareConfig: {"champion": "old", "challenger": "new", "scores": ("scores",)},
    PromoteConfig: {"model": "new", "registry": "site"},
}
NAN, INF = float("nan"), float("inf")


def built(config_class, **changes):
    return config_class(**(REQUIRED.get(config_class, {}) | changes))


# ------------------------------------------------------------------------------------------------ validation


@pytest.mark.parametrize("config_class", VERBS)
def test_a_verb_with_its_required_settings_is_built_and_frozen(config_class):
    config = built(config_class)
    with pytest.raises(FrozenInstanceError):
        config.quiet = True
    assert config.quiet is False


@pytest.mark.parametrize("config_class", VERBS)
def test_a_setting_without_a_default_must_be_given(config_class):
    for name in REQUIRED[config_class].keys() - {"manifest"}:
        with pytest.raises((TypeError, ConfigError), match=name):
            config_class(**{key: value for key, value in REQUIRED[config_class].items() if key != name})
    assert all(one.metadata["help"] for one in fields(config_class))


@pytest.mark.parametrize(
    ("config_class", "settings", "message"),
    [
        (PartitionConfig, {"labels": {"Riss": "crack"}}, r"labels=Riss=crack must map .* Try --labels"),
        (
            PartitionConfig,
            {"labels": {"a": "non_crack", "b": "crack", "c": "maybe"}},
            "must map folders to non_crack or crack",
        ),
        (PartitionConfig, {"labels": {}}, "labels= must map"),
        (PartitionConfig, {"external": (5,)}, "external=5 must be two counts, such as"),
        (PartitionConfig, {"external": (1, 2, 3)}, "external=1,2,3 must be two counts"),
        (PartitionConfig, {"external": (5, -1)}, "external=5,-1 must be two counts"),
        (PartitionConfig, {"non_crack_split": (80, 10, 11)}, "non_crack_split=80,10,11 must be 3 percentages"),
        (PartitionConfig, {"non_crack_split": (80, 20)}, "non_crack_split=80,20 must be 3 percentages"),
        (PartitionConfig, {"non_crack_split": (110, -10, 0)}, "must be 3 percentages"),
        (PartitionConfig, {"crack_split": (10, 80, 10)}, "crack_split=10,80,10 must be 2 percentages"),
        (PartitionConfig, {"crack_split": (10, 91)}, "crack_split=10,91 must be 2 percentages that add up to 100"),
        (
            PartitionConfig,
            {"group_by": "bridge-("},
            r"group_by=bridge-\( is not a valid .* Try parent",
        ),
        (PartitionConfig, {"seed": -1}, "seed=-1 must be 0 or more"),
        (AdaptConfig, {"max_cracked": 0.5}, "max_cracked=0.5 must lie in 0..0.1"),
        (AdaptConfig, {"group_by": "("}, "is not a valid regular expression"),
        (AdaptConfig, {"workers": (2, 1)}, "workers=2,1 must be 1 or more"),
        (TrainConfig, {"epochs": 0}, "epochs=0 must be greater than 0"),
        (TrainConfig, {"batch": 0}, r"batch=0 must lie in 0..65536 \(0 excluded\)"),
        (LiveConfig, {"source": "photographs", "seconds": 1e300}, r"seconds=1e\+300 must lie in 0..1e\+09"),
        (ScoreConfig, {"batch": 10**20}, r"batch=1\d+ must lie in 1..65536"),
        (AdaptConfig, {"max_false_alarm": 0.0}, r"max_false_alarm=0 must lie in 0..0.2 \(0 excluded\)"),
        (ScoreConfig, {"distance": 0.0}, r"distance=0 must lie in 0..1000 \(0 excluded\)"),
        (TrainConfig, {"latent_dim": -1}, "latent_dim=-1 must be greater than 0"),
        (TrainConfig, {"tile_px": 0}, "tile_px=0 must be greater than 0"),
        (TrainConfig, {"stride_px": 0}, "stride_px=0 must be greater than 0"),
        (TrainConfig, {"learning_rate": 0.0}, "learning_rate=0 must be greater than 0"),
        (TrainConfig, {"learning_rate": NAN}, "learning_rate=nan must be greater than 0, and finite"),
        (TrainConfig, {"learning_rate": INF}, "learning_rate=inf must be greater than 0, and finite"),
        (TrainConfig, {"head": "max"}, "head=max is not one of mse, evidence"),
        (TrainConfig, {"beta": -1e-6}, "beta=-1e-06 must be 0 or more"),
        (TrainConfig, {"beta": NAN}, "beta=nan must be 0 or more, and finite"),
        (TrainConfig, {"channels": ()}, "channels= must be one or more counts"),
        (TrainConfig, {"channels": (32, 0)}, "channels=32,0 must be one or more counts"),
        (TrainConfig, {"input_px": 100}, "input_px=100 must be a positive multiple of 64: .* Try input_px=64"),
        (TrainConfig, {"input_px": 0}, "input_px=0 must be a positive multiple of 64: .* Try input_px=64"),
        (TrainConfig, {"stride_px": 400}, r"stride_px=400 must lie in 1..tile_px=256: .* Try stride_px=192"),
        (TrainConfig, {"percentile": 100.0}, "percentile=100 must lie in 50"),
        (TrainConfig, {"percentile": 0.95}, "percentile=0.95 must lie in 50"),
        (TrainConfig, {"percentile": NAN}, "percentile=nan must lie in 50"),
        (TrainConfig, {"workers": (0,)}, "workers=0 must be 1 or more"),
        (TrainConfig, {"workers": (4, 2)}, "workers=4,2 must be .* with MIN at most MAX"),
        (TrainConfig, {"workers": (1, 2, 3)}, "workers=1,2,3 must be 1 or more, or MIN,MAX"),
        (TrainConfig, {"workers": (1, 17)}, "workers=1,17 is more than batch=16 tiles"),
        (TrainConfig, {"max_failures": -1}, "max_failures=-1 must be 0 or more"),
        (TrainConfig, {"clip_norm": 0.0}, "clip_norm=0 must be greater than 0"),
        (TrainConfig, {"patience": 0}, "patience=0 must be greater than 0"),
        (TrainConfig, {"augment": True}, "recipe=repair always rotates, flips and changes the exposure"),
        (TrainConfig, {"seed": -1}, "seed=-1 must be 0 or more"),
        (CalibrateConfig, {"images": "sound"}, "either --manifest or --images, and not both"),
        (CalibrateConfig, {"manifest": ""}, "either --manifest or --images, and not both"),
        (CalibrateConfig, {"percentile": 49.0}, "percentile=49 must lie in 50"),
        (CalibrateConfig, {"max_false_alarm": 0.0}, "max_false_alarm=0 must lie between 0 and 1"),
        (CalibrateConfig, {"max_false_alarm": 1.0}, "max_false_alarm=1 must lie between 0 and 1"),
        (CalibrateConfig, {"max_false_alarm": NAN}, "max_false_alarm=nan must lie between 0 and 1"),
        (CalibrateConfig, {"max_false_alarm": 0.1, "confidence": 1.0}, "confidence=1 must lie between 0 and 1"),
        (CalibrateConfig, {"confidence": 0.9}, "--confidence needs --max-false-alarm"),
        (CalibrateConfig, {"percentile": 95, "max_false_alarm": 0.1}, "give either --percentile or --max-false-alarm"),
        (CalibrateConfig, {"batch": 0}, "batch=0 must lie in 1..65536"),
        (EvaluateConfig, {"split": "train"}, "split=train must be val or test: train holds no cracks"),
        (EvaluateConfig, {"resamples": 99}, "resamples=99 must be 100 or more"),
        (EvaluateConfig, {"batch": -1}, "batch=-1 must lie in 1..65536"),
        (EvaluateConfig, {"workers": 0}, "workers=0 must be 1 or more"),
        (EvaluateConfig, {"seed": -1}, "seed=-1 must be 0 or more"),
        (ScoreConfig, {"format": ("csv",)}, "format=csv must be parquet or parquet,csv: a rerun reads Parquet"),
        (ScoreConfig, {"format": ()}, "format= must be parquet or parquet,csv"),
        (ScoreConfig, {"format": ("parquet", "xlsx")}, "format=parquet,xlsx must be parquet"),
        (ScoreConfig, {"max_unreadable": "many"}, "'many' is not a limit"),
        (ScoreConfig, {"max_unreachable": "1.5"}, "'1.5' is not a limit"),
        (ScoreConfig, {"gps_precision": "5"}, "'5' is not a precision of places: write 100m"),
        (ScoreConfig, {"group_by": "["}, r"group_by=\[ is not a valid regular expression"),
        (ScoreConfig, {"workers": -2}, "workers=-2 must be 1 or more"),
        (DemoConfig, {"images": 199}, "images=199 must be 200 or more"),
        (DemoConfig, {"epochs": 0}, "epochs=0 must be 1 or more"),
        (DemoConfig, {"seed": -1}, "seed=-1 must be 0 or more"),
        (TrainConfig, {"epochs": 2.5}, "epochs=2.5 must be a whole number"),
        (TrainConfig, {"epochs": True}, "epochs=True must be a whole number"),
        (TrainConfig, {"learning_rate": "1e-3"}, "learning_rate='1e-3' must be a number"),
        (TrainConfig, {"gpu": 1}, "gpu=1 must be True or False"),
        (TrainConfig, {"channels": 32}, "channels=32 must be a list"),
        (TrainConfig, {"channels": (32, 0.5)}, r"channels=\(32, 0.5\) must be a whole number"),
        (PartitionConfig, {"labels": "crack"}, "labels='crack' must be a table"),
        (ScoreConfig, {"images": 3}, "images=3 must be a list"),
        (ScoreConfig, {"images": ()}, "images= must name at least one image or folder"),
        (ScoreConfig, {"model": 3}, "model=3 must be text"),
        (ScoreConfig, {"s3_endpoint": "http://me:secret@host:9"}, "s3_endpoint contains a user name or password"),
    ],
)
def test_an_invalid_setting_is_refused_in_one_line_when_it_is_built(config_class, settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        built(config_class, **settings)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("config_class", "settings", "useless"),
    [
        (PartitionConfig, {"group_column": "bridge"}, "--group-column"),
        (CalibrateConfig, {"exclude": ("masks",)}, "--exclude"),
        (ScoreConfig, {"findings": "off", "joints": "ignore"}, "--joints"),
        (NightlyConfig, {"findings": "off", "joints": "ignore"}, "--joints"),
        (CompareConfig, {"split": "val"}, "--split"),
        (PromoteConfig, {"split": "val", "why": "first"}, "--split"),
        (DemoConfig, {"images": 500}, "--images"),
        (DemoConfig, {"epochs": 3}, "--epochs"),
    ],
)
def test_a_setting_that_nothing_would_use_is_refused(config_class, settings, useless):
    given = (REQUIRED | REQUIRED_ALSO)[config_class] | settings
    with pytest.raises(ConfigError, match=f"^{useless} has no effect .*: leave it out"):
        config_class(**given)
    del given[useless[2:].replace("-", "_")]
    config_class(**given)


def test_the_sender_of_an_e_mail_without_a_receiver_is_refused_before_the_night():
    with pytest.raises(ConfigError, match="--mail-from needs --mail-to"):
        NightlyConfig(**REQUIRED_ALSO[NightlyConfig], mail_from="night@example.org")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"segmenter": ()}, "head=evidence needs a segmenter: use --segmenter"),
        ({"recipe": "plain"}, "a segmenter learns from synthetic cracks: use --recipe repair"),
        ({"segmenter": (8, 8)}, "segmenter=8,8 must be four counts"),
        ({"channels": (4, 8), "input_px": 24}, "input_px=24 must be a positive multiple of 64"),
        ({"channels": (4, 8), "input_px": 24, "backbone": "none"}, "input_px=24 must be a positive multiple of 32"),
        ({"preset": "best"}, "preset=best is not one of published"),
        ({"schedule": "linear"}, "schedule=linear is not one of cosine, constant"),
    ],
)
def test_the_requirements_of_the_segmenter_and_the_recipe_are_stated(settings, message):
    with pytest.raises(ConfigError, match=message):
        built(TrainConfig, **settings)


def test_given_settings_override_a_preset():
    settings = with_preset({"preset": "published", "epochs": 3, "manifest": "m", "model": "m"})
    published = TrainConfig(**settings)
    assert (published.head, published.recipe, published.segmenter, published.epochs) == ("mse", "plain", (), 3)
    assert with_preset({"epochs": 3}) == {"epochs": 3}


@pytest.mark.parametrize(
    ("config_class", "settings"),
    [
        (PartitionConfig, {"external": (0, 0), "non_crack_split": (0, 50, 50), "crack_split": (0, 100)}),
        (PartitionConfig, {"group_by": r"bridge-(\d+)"}),
        (
            TrainConfig,
            {
                "stride_px": 227,
                "beta": 0.0,
                "percentile": 50.0,
                "channels": (8,),
                "input_px": 2,
                "head": "mse",
                "segmenter": (),
                "backbone": "none",
            },
        ),
        (CalibrateConfig, {"manifest": "", "images": "sound", "max_false_alarm": 0.01, "confidence": 0.95}),
        (EvaluateConfig, {"split": "val", "resamples": 100, "workers": 1}),
        (ScoreConfig, {"format": ("parquet", "csv"), "max_unreadable": "0", "max_unreachable": "100%"}),
        (DemoConfig, {"train": True, "images": 200}),
    ],
)
def test_settings_at_their_bounds_are_accepted(config_class, settings):
    config = built(config_class, **settings)
    assert {name: getattr(config, name) for name in settings} == settings


def test_lists_paths_and_whole_numbers_are_converted():
    config = built(TrainConfig, channels=[8, 16], workers=[1], manifest=Path("m.parquet"), percentile=99)
    assert (config.channels, config.workers, config.manifest) == ((8, 16), (1,), "m.parquet")
    assert isinstance(config.percentile, float)


def test_numbers_of_numpy_are_numbers():
    config = built(ScoreConfig, mm_per_px=np.float32(0.25), batch=np.int64(4))
    assert (config.mm_per_px, config.batch) == (0.25, 4)
    assert type(config.mm_per_px) is float and type(config.batch) is int
    with pytest.raises(ConfigError, match=r"batch=np.float64\(4.0\) must be a whole number"):
        built(ScoreConfig, batch=np.float64(4))


def test_a_text_of_patterns_is_split_as_that_of_the_flag():
    assert built(ScoreConfig, exclude="masks,*_thumb.jpg").exclude == ("masks", "*_thumb.jpg")
    assert built(ScoreConfig, exclude=["a,b"]).exclude == ("a,b",)
    assert built(ScoreConfig, images="a,b").images == ("a,b",)


@pytest.mark.parametrize(
    "images", [pd.DataFrame({"image": ["a"] * 100}), pd.Series(["a"] * 100), np.array(["a", "b"]), {"a", "b"}]
)
def test_a_table_or_an_array_of_images_is_refused_in_one_short_line(images):
    for call in (partial(built, ScoreConfig), crackvae.score):
        with pytest.raises(ConfigError, match=r"^images=.* must be a list\.$") as caught:
            call(images=images)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 150


def test_two_partitions_do_not_share_their_labels():
    one, other = built(PartitionConfig), built(PartitionConfig)
    one.labels["wall"] = "crack"
    assert "wall" not in other.labels


# ------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("text", "limit"), [("0", 0), ("5", 5), ("5.0", 5), ("0%", 0), ("1%", 2), ("0.5%", 1), ("100%", 200)]
)
def test_a_limit_is_a_count_or_a_share_of_the_images(text, limit):
    assert limit_of(text, 200) == pytest.approx(limit)


@pytest.mark.parametrize("text", ["", "%", "-1", "-1%", "101%", "1.5", "ten", "nan", "inf", "nan%", "inf%", "1%%"])
def test_an_invalid_limit_is_refused_with_two_valid_examples(text):
    with pytest.raises(ConfigError, match="is not a limit: write a count such as 5, or a share such as 1%"):
        limit_of(text, 200)


@settings(derandomize=True, deadline=None)
@given(st.text(max_size=6), st.integers(0, 10_000))
def test_any_text_is_a_limit_of_0_or_more_or_refused(text, n_images):
    try:
        limit = limit_of(text, n_images)
    except ConfigError:
        limit = 0.0
    assert 0 <= limit < INF


# ------------------------------------------------------------------------------------------- from the text of flags


@pytest.mark.parametrize(
    ("config_class", "name", "text", "value"),
    [
        (TrainConfig, "epochs", "3", 3),
        (TrainConfig, "beta", "1e-6", 1e-6),
        (TrainConfig, "head", "mse", "mse"),
        (TrainConfig, "channels", "32,64", (32, 64)),
        (ScoreConfig, "workers", "4", 4),
        (ScoreConfig, "format", "parquet,csv", ("parquet", "csv")),
        (CalibrateConfig, "max_false_alarm", "0.01", 0.01),
        (PartitionConfig, "external", "0,0", (0, 0)),
        (PartitionConfig, "external", "", ()),
        (PartitionConfig, "labels", "heil=non_crack,Riss=crack", {"heil": "non_crack", "Riss": "crack"}),
    ],
)
def test_the_text_of_a_flag_becomes_a_value_of_its_setting(config_class, name, text, value):
    found = parse_value(get_type_hints(config_class)[name], text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("config_class", "name", "text"),
    [
        (TrainConfig, "epochs", "3.5"),
        (TrainConfig, "epochs", "many"),
        (TrainConfig, "channels", "32,wide"),
        (ScoreConfig, "workers", ""),
        (CalibrateConfig, "max_false_alarm", "1 %"),
        (PartitionConfig, "labels", "crack"),
        (PartitionConfig, "labels", "a=b=crack"),
    ],
)
def test_a_text_of_another_type_is_refused(config_class, name, text):
    with pytest.raises(ValueError, match=r"is not a (whole )?number|is not NAME=VALUE"):
        parse_value(get_type_hints(config_class)[name], text)


def test_a_flag_has_dashes():
    assert flag("max_false_alarm") == "--max-false-alarm"


# -------------------------------------------------------------------------------------------------- from TOML files


def read(tmp_path, text: str, config_class):
    (tmp_path / "settings.toml").write_text(text)
    return read_settings(str(tmp_path / "settings.toml"), config_class)


def test_a_file_gives_numbers_texts_switches_lists_and_tables(tmp_path):
    text = """
        manifest = "m.parquet"
        epochs = 3
        learning_rate = 1e-4
        gpu = true
        channels = [16, 32]
    """
    assert read(tmp_path, text, TrainConfig) == {
        "manifest": "m.parquet",
        "epochs": 3,
        "learning_rate": 1e-4,
        "gpu": True,
        "channels": (16, 32),
    }
    text = '[labels]\nheil = "non_crack"\nRiss = "crack"'
    assert read(tmp_path, text, PartitionConfig) == {"labels": {"heil": "non_crack", "Riss": "crack"}}


def test_lists_and_tables_may_be_written_as_their_flags_are(tmp_path):
    text = 'external = "10,20"\nlabels = "a=crack,b=non_crack"\nseed = "7"'
    expected = {"external": (10, 20), "labels": {"a": "crack", "b": "non_crack"}, "seed": 7}
    assert read(tmp_path, text, PartitionConfig) == expected


def test_several_paths_are_a_list_and_their_commas_do_not_separate(tmp_path):
    assert read(tmp_path, 'images = "a,b.jpg"', ScoreConfig) == {"images": ("a,b.jpg",)}
    assert read(tmp_path, 'images = ["a,b.jpg", "c/"]', ScoreConfig) == {"images": ("a,b.jpg", "c/")}
    with pytest.raises(ConfigError, match="images = 3 must be a list"):
        read(tmp_path, "images = 3", ScoreConfig)


def test_the_commas_of_texts_in_a_list_or_a_table_do_not_separate(tmp_path):
    assert read(tmp_path, 'exclude = ["Bridge, north", "b"]', ScoreConfig) == {"exclude": ("Bridge, north", "b")}
    assert read(tmp_path, 'exclude = "c,d"', ScoreConfig) == {"exclude": ("c", "d")}
    labels = {"Riss, fein": "crack", "a=b": "non_crack"}
    text = "[labels]\n" + "\n".join(f'"{folder}" = "{label}"' for folder, label in labels.items())
    assert read(tmp_path, text, PartitionConfig) == {"labels": labels}
    found = read(tmp_path, "drift_psi = [0.1, 1]", NightlyConfig)
    assert found == {"drift_psi": (0.1, 1.0)} and isinstance(found["drift_psi"][1], float)


@pytest.mark.parametrize(
    "address", ["anna@", "@example.org", "anna@example.org, ben@example.org", "Night <n@x", "a b@c"]
)
def test_an_address_that_no_mail_can_be_sent_to_is_refused_before_the_night(address):
    given = {"images": ("set",), "out": "out", "mail_from": "Night watch <night@example.org>"}
    taken = ("root", "anna@example.org", "A. B. Roehr-Smith <roehr@example.org>")
    assert NightlyConfig(**given, mail_to=taken).mail_to == taken
    with pytest.raises(ConfigError, match="is not an e-mail address"):
        NightlyConfig(**given, mail_to=("anna@example.org", address))
    with pytest.raises(ConfigError, match="is not an e-mail address" if "@" in address else "--mail-from"):
        NightlyConfig(**given | {"mail_from": address}, mail_to=("anna@example.org",))


@pytest.mark.parametrize(
    "server", ["mail.example.org", ":25", "mail:0", "mail:65536", "mail:99999", "mail:smtp", "::1:25", "a b:25"]
)
def test_a_mail_server_without_a_port_that_exists_is_refused_before_the_night(server):
    given = {"images": ("set",), "out": "out"}
    assert NightlyConfig(**given, mail_server="mail:65535").mail_server == "mail:65535"
    assert NightlyConfig(**given, mail_server="[::1]:25").mail_server == "[::1]:25"
    with pytest.raises(ConfigError, match=f"mail_server={server} is not HOST:PORT"):
        NightlyConfig(**given, mail_server=server)


def test_keys_may_have_dashes_like_flags(tmp_path):
    found = read(tmp_path, 'max-unreadable = 5\nmax_unreachable = "1%"', ScoreConfig)
    assert found == {"max_unreadable": "5", "max_unreachable": "1%"}


def test_a_whole_number_is_a_number_of_any_kind_and_an_optional_one_too(tmp_path):
    found = read(tmp_path, "percentile = 99\nworkers = 2\nmax_false_alarm = 0.01", CalibrateConfig)
    assert found == {"percentile": 99.0, "workers": 2, "max_false_alarm": 0.01}
    assert isinstance(found["percentile"], float)


def test_an_unknown_setting_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"settings\.toml: unknown setting 'epoch' \(did you mean epochs\?\)",
    ):
        read(tmp_path, "epoch = 3", TrainConfig)


@pytest.mark.parametrize(
    ("config_class", "text", "message"),
    [
        (TrainConfig, "epochs = 3.5", "epochs = 3.5 is wrong: '3.5' is not a whole number"),
        (TrainConfig, 'epochs = "many"', "epochs = 'many' is wrong: 'many' is not a whole number"),
        (TrainConfig, "epochs = true", "epochs = True is wrong: true and false are for switches"),
        (TrainConfig, "epochs = [3]", r"epochs = \[3\] is wrong: expected a single value"),
        (TrainConfig, "channels = [32, 6.5]", r"channels = \[32, 6.5\] must be a whole number"),
        (TrainConfig, "channels = [32, true]", r"channels = \[32, True\] must be a whole number"),
        (PartitionConfig, "exclude = [3]", r"exclude = \[3\] must be text"),
        (PartitionConfig, "[labels.a]\nb = 'crack'", "labels = .* must be text"),
        (TrainConfig, 'gpu = "yes"', "gpu = 'yes' is wrong: must be true or false"),
        (TrainConfig, "gpu = 1", "gpu = 1 is wrong: must be true or false"),
        (TrainConfig, "learning_rate = 2026-01-01", "learning_rate = .* is wrong"),
        (TrainConfig, "model = false", "model = False is wrong"),
        (TrainConfig, 'model = ["a", "b"]', "model = .* is wrong: expected a single value"),
        (TrainConfig, "[model]\na = 1", "model = .* is wrong: expected a single value"),
        (PartitionConfig, 'labels = "crack"', "labels = 'crack' is wrong: 'crack' is not NAME=VALUE"),
        (PartitionConfig, "[external]\nnon_crack = 1", "external = .* is wrong: expected a single value"),
        (ScoreConfig, 'mm_per_px = "0.1mm"', "mm_per_px = '0.1mm' is wrong: '0.1mm' is not a number"),
        (ScoreConfig, "[score]\nbatch = 1", r"\[score\] is no setting: write the settings without such a line"),
    ],
)
def test_a_value_of_another_type_is_refused_with_the_name_of_its_setting(tmp_path, config_class, text, message):
    with pytest.raises(ConfigError, match=rf"settings\.toml: {message}"):
        read(tmp_path, text, config_class)


@pytest.mark.parametrize("content", [b"epochs = ", b"epochs = 1\nepochs = 2", b"\xff\xfe", b"just words"])
def test_a_file_that_is_not_toml_is_refused(tmp_path, content):
    (tmp_path / "settings.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"settings\.toml: .*Correct the file, or give the settings as flags"):
        read_settings(str(tmp_path / "settings.toml"), TrainConfig)


def test_a_file_that_is_missing_or_a_folder_is_named_in_words(tmp_path):
    with pytest.raises(ConfigError, match=r"nosuch\.toml: cannot be read: No such file or directory\. Check the path"):
        read_settings(str(tmp_path / "nosuch.toml"), TrainConfig)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_settings(str(tmp_path), TrainConfig)


def test_a_byte_order_mark_of_a_windows_editor_is_ignored(tmp_path):
    (tmp_path / "settings.toml").write_bytes(b"\xef\xbb\xbfepochs = 3\r\n")
    assert read_settings(str(tmp_path / "settings.toml"), TrainConfig) == {"epochs": 3}


@pytest.mark.parametrize("config_class", VERBS)
def test_every_default_survives_being_written_to_a_file(tmp_path, config_class):
    config = built(config_class)
    values = {one.name: getattr(config, one.name) for one in fields(config)}
    lines = [f"{name} = {toml(value)}" for name, value in values.items() if value is not None]
    found = read(tmp_path, "\n".join(lines), config_class)
    assert config_class(**found) == config


def toml(value) -> str:
    """A value as TOML; its texts, numbers and lists are those of JSON."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {json.dumps(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)
