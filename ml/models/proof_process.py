"""Run as a script in a fresh process: loads an MLflow model folder and writes its answers to the given rows.

What is raised ends it with the kind and the place on the last line: the words of a library may quote the rows.
"""

import sys
import traceback
from pathlib import Path

if __name__ == "__main__":
    folder, rows, answers = sys.argv[1:]
    try:
        import mlflow.pyfunc
        import pandas as pd

        mlflow.pyfunc.load_model(folder).predict(pd.read_parquet(rows)).to_parquet(answers)
    except Exception as error:  # noqa: BLE001 - whatever it is: the process ends with it
        place = traceback.extract_tb(error.__traceback__)[-1]
        name = f" of {error.name}" if isinstance(error, ImportError) and error.name else ""
        sys.exit(f"{type(error).__name__}{name} at {Path(place.filename).name}:{place.lineno}")
