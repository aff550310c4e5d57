"""The report's section of the training run."""

from typing import Any

from bert4rec_tf.config import Config
from bert4rec_tf.report.evaluated_model import Evaluation
from bert4rec_tf.report.number_format import counted


def run_content(evaluation: Evaluation) -> dict[str, Any]:
    """The model, its records, the hardware, and the settings by whether they are the defaults, for `run.html`."""
    trained, metrics = evaluation.trained, evaluation.metrics
    state, hardware, counts = trained.state, metrics["hardware"], metrics["data"]["counts"]
    ndcg = state["validation_ndcg@10"]
    config, defaults = trained.config.to_dict(), Config().to_dict()
    settings = [(section, field, value) for section in config for field, value in config[section].items()]
    devices = f"{hardware['cores']} cores, {counted(hardware['gpus'], 'GPU')}"
    facts = [
        ("model", f"{evaluation.model_dir.resolve().name}: {trained.config.model.model_name}"),
        ("weights", f"of step {state['step']:,}, after {state['elapsed_seconds'] / 60:.1f} minutes of training"),
        ("validation", "none by that step" if ndcg is None else f"NDCG@10 {ndcg:.4f} at that step, all items"),
        ("evaluated", f"{metrics['users']:,} users, {metrics['split']} split"),
        ("on", f"{hardware['cpu']}, {devices}, Python {hardware['python']}, TensorFlow {hardware['tensorflow']}"),
        ("records", f"{evaluation.data_dir.resolve().name}, manifest sha256 {metrics['data']['manifest_sha256'][:12]}"),
        ("log", f"{counts['events']:,} events, {counts['users']:,} users, {counts['items']:,} items"),
    ]
    return {
        "facts": facts,
        "changed": [(f"{a}.{b}", _written(value)) for a, b, value in settings if value != defaults[a][b]],
        "unchanged": [(f"{a}.{b}", _written(value)) for a, b, value in settings if value == defaults[a][b]],
    }


def _written(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
