"""Export of a run's metrics and record to other programs: TensorBoard event files, an MLflow tracking server."""
