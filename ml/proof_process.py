"""Run as a script in a fresh process: loads an MLflow model folder and writes its answers to the given rows."""

import sys

if __name__ == "__main__":
    import mlflow.pyfunc
    import pandas as pd

    folder, rows, answers = sys.argv[1:]
    mlflow.pyfunc.load_model(folder).predict(pd.read_parquet(rows)).to_parquet(answers)
