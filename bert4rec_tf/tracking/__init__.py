"""Records runs with an experiment tracker: MLflow."""
