"""Versions in object stores: no models.config names a version that is not whole."""

import pathlib
import re

import pytest

from bert4rec_tf.serving.export import ExportOptions
from bert4rec_tf.serving.export import export as export_model
from bert4rec_tf.serving.export_store import fetch_version, publishing, roll_back_store
from bert4rec_tf.serving.versions import next_version
from tests.support.object_stores import FlakyMemory, memory_store  # noqa: F401, a fixture
from tfrecords.errors import InputError
from tfrecords.stores import Store, StoreError

URL = "s3://bucket/exports/shop"


def export(keep_versions: int | None = None) -> str:
    with publishing(URL, keep_versions, with_newest=False) as local:
        version = next_version(local)
        for name in ("saved_model.pb", "variables/variables.index", "assets.extra/metadata.json"):
            (version / name).parent.mkdir(parents=True, exist_ok=True)
            (version / name).write_text(f"{name} of {version.name}")
    return version.name


def pinned() -> list[str]:
    return re.findall("versions: ([0-9]+)", (Store.open(URL).read("models.config") or b"").decode())


def test_models_config_pins_whole_versions_and_is_written_last(memory: FlakyMemory) -> None:
    first = export()
    assert [path.rpartition("/")[2] for path in memory.written[-2:]] == ["saved_model.pb", "models.config"]
    second, third = export(), export()
    assert first < second < third
    assert pinned() == [second, third]
    config = (Store.open(URL).read("models.config") or b"").decode()
    assert f'base_path: "{URL}"' in config
    assert "version_labels" not in config
    assert Store.open(URL).folders() == [first, second, third]


def test_old_versions_are_removed(memory: FlakyMemory) -> None:
    versions = [export(keep_versions=2) for _ in range(3)]
    assert Store.open(URL).folders() == versions[1:] == pinned()


@pytest.mark.parametrize("refused", ["variables.index", "saved_model.pb", "models.config"])
def test_a_store_that_fails_half_way_serves_what_it_served(memory: FlakyMemory, refused: str) -> None:
    first = export()

    def refuse(path: str) -> None:
        if path.endswith(refused):
            raise OSError("AWS Error SLOW_DOWN")

    memory.refuse = refuse
    with pytest.raises(StoreError, match="SLOW_DOWN"):
        export()
    assert pinned() == [first]
    assert fetch_version(URL).name == first
    memory.refuse = lambda _: None
    second = export()
    assert pinned()[-1] == second == fetch_version(URL).name
    assert int(second) > int(first) + 1  # the number of the version that failed is not used again


def test_rollback(memory: FlakyMemory) -> None:
    first = export()
    with pytest.raises(InputError, match=r"A rollback needs at least two versions. Received: s3://bucket/exports/shop"):
        roll_back_store(URL)
    second = export()
    assert roll_back_store(URL) == (second, first)
    assert pinned() == Store.open(URL).folders() == [first]
    assert int(export()) > int(second)


def test_one_version_can_be_named(memory: FlakyMemory) -> None:
    first, _ = export(), export()
    version = fetch_version(f"{URL}/{first}")
    assert (version.name, (version / "saved_model.pb").read_text()) == (first, f"saved_model.pb of {first}")
    with pytest.raises(InputError, match="`directory` must be a model directory of train"):
        fetch_version("s3://bucket/none")


def test_a_canary_needs_a_directory_on_this_machine(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r"--label=canary needs an --export_dir on this machine.*Received: s3://"):
        export_model(tmp_path, URL, ExportOptions(label="canary"))
