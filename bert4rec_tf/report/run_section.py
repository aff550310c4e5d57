"""The report's section of the training run."""

from bert4rec_tf.config import Config
from bert4rec_tf.report.evaluated_model import Evaluation
from bert4rec_tf.report.html import Markup, counted, element, name_value_table


def run_section(evaluation: Evaluation) -> Markup:
    """The model, its records, the hardware, and the settings that differ from the defaults."""
    trained, metrics = evaluation.trained, evaluation.metrics
    state, hardware, counts = trained.state, metrics["hardware"], metrics["data"]["counts"]
    ndcg = state["validation_ndcg@10"]
    config, defaults = trained.config.to_dict(), Config().to_dict()
    settings = [(section, field, value) for section in config for field, value in config[section].items()]
    changed = [(f"{a}.{b}", value) for a, b, value in settings if value != defaults[a][b]]
    unchanged = [(f"{a}.{b}", value) for a, b, value in settings if value == defaults[a][b]]
    devices = f"{hardware['cores']} cores, {counted(hardware['gpus'], 'GPU')}"
    facts = [
        ("model", evaluation.model_dir.resolve().name),
        ("weights", f"of step {state['step']:,}, after {state['elapsed_seconds'] / 60:.1f} minutes of training"),
        ("validation", "none by that step" if ndcg is None else f"NDCG@10 {ndcg:.4f} at that step, all items"),
        ("evaluated", f"{metrics['users']:,} users, {metrics['split']} split"),
        ("on", f"{hardware['cpu']}, {devices}, Python {hardware['python']}, TensorFlow {hardware['tensorflow']}"),
        ("records", f"{evaluation.data_dir.resolve().name}, manifest sha256 {metrics['data']['manifest_sha256'][:12]}"),
        ("log", f"{counts['events']:,} events, {counts['users']:,} users, {counts['items']:,} items"),
    ]
    settings_shown = element(
        "div",
        element("h3", "Settings that are not the defaults"),
        name_value_table(changed, "settings") if changed else element("p", "None."),
        element(
            "details",
            element("summary", f"{len(unchanged)} settings at their defaults"),
            name_value_table(unchanged, "settings"),
        ),
    )
    return element("div", element("div", name_value_table(facts)), settings_shown, class_="columns")
