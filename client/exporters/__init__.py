"""Export of runs to other programs: TensorBoard, MLflow, Weights & Biases, Parquet, and a report in HTML."""
