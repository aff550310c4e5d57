"""Where the models, items and users of the page come from."""

import dataclasses
import pathlib
from collections.abc import Mapping

from bert4rec_tf.explorer.catalogue import Catalogue
from bert4rec_tf.explorer.explored_model import ExploredModel, LocalModel, RemoteModel
from bert4rec_tf.explorer.held_out_users import HeldOutUsers
from bert4rec_tf.explorer.view import Explored
from tfrecords.errors import InputError, check_local

_SERVERS_DEFAULT = "default"  # --model_name of TF Serving, if it is not given


@dataclasses.dataclass(frozen=True)
class Source:
    """One model, and a second one to compare it with.

    Attributes:
        export_dir: an export directory or one version of it; beside `server`, only its items are read.
        model_dir: a model directory, instead.
        server: host:port of a TF Serving, instead.
        model: the model's name at the server; None: the name of `export_dir`, or TF Serving's own default.
        compare_with: a directory, the name of a version in `export_dir`, or a number or label at the server.

    Raises:
        InputError: not exactly one source, or an address that is none.
    """

    export_dir: str | None = None
    model_dir: str | None = None
    server: str | None = None
    model: str | None = None
    compare_with: str | None = None

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in ("export_dir", "model_dir", "server") if getattr(self, name)}
        if len(given) != 1 and given.keys() != {"export_dir", "server"}:
            raise InputError(
                "Give one of --export_dir, --model_dir and --server; --server may have --export_dir besides, for "
                f"titles. Received: {', '.join(f'--{name}={value}' for name, value in given.items()) or 'none'}. "
                "Fix: --export_dir=exports/ml-1m"
            )
        if self.server and ("://" in self.server or ":" not in self.server):
            raise InputError(f"--server must be host:port, for gRPC. Received: {self.server}. Fix: localhost:8500")
        if self.model and not self.server:
            raise InputError(f"--model names a model at --server. Received: --model={self.model} only. Fix: --server")

    def open(self, data_dir: str | None = None, titles: Mapping[str, str] | None = None) -> Explored:
        """Loads the models, the items and the users.

        Args:
            data_dir: records whose test users are shown; None: none.
            titles: by item id, for items without a title.

        Raises:
            InputError: a directory, server or version that cannot be used, or records of other items.
        """
        first = self._first()
        models = (first,) if self.compare_with is None else (first, self._second(self.compare_with))
        users = None if data_dir is None else HeldOutUsers.read(data_dir)
        vocabulary = next((model.vocabulary for model in models if model.vocabulary is not None), None)
        if users is not None:
            known = zip(users.vocabulary.item_ids, users.vocabulary.titles, strict=True)
            titles = {item_id: title for item_id, title in known if title is not None} | dict(titles or {})
            if vocabulary is not None and not set(vocabulary.item_ids) & set(users.vocabulary.item_ids):
                raise InputError(
                    f"--data_dir must have items of the model. Received: {data_dir}, which shares none with "
                    f"{first.name}. Fix: name the --data_dir that the model was trained on"
                )
            vocabulary = vocabulary or users.vocabulary
        return Explored(models, Catalogue(vocabulary, titles), users)

    def _first(self) -> ExploredModel:
        if self.server:
            return RemoteModel(self.server, self._name(), "", self.export_dir)
        return LocalModel(str(self.export_dir or self.model_dir))

    def _second(self, which: str) -> ExploredModel:
        check_local("compare_with", which)
        if pathlib.Path(which).is_dir():
            return LocalModel(which)
        if self.server:
            return RemoteModel(self.server, self._name(), which, self.export_dir)
        version = pathlib.Path(self.export_dir or "") / which
        if self.export_dir and version.is_dir():
            return LocalModel(version)
        raise InputError(
            f"--compare_with must be a directory or a version in --export_dir. Received: {which}. "
            "Fix: name a directory written by export.py or train.py"
        )

    def _name(self) -> str:
        return self.model or (pathlib.Path(self.export_dir).resolve().name if self.export_dir else _SERVERS_DEFAULT)
