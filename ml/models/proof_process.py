"""A script for a fresh process: it loads an MLflow model folder and writes the model's answers to each file of rows.
The first one has raw rows, the others have rows of the source.

If anything raises, the last line on stderr names the kind of the exception and its place, and not its message: a
library's message may quote the rows.
"""

import sys
import traceback
from pathlib import Path

if __name__ == "__main__":
    folder, *files = sys.argv[1:]
    try:
        import mlflow.pyfunc
        import pandas as pd

        model = mlflow.pyfunc.load_model(folder)
        for rows, answers in zip(files[::2], files[1::2], strict=True):
            form = "raw" if rows == files[0] else "source"
            model.predict(pd.read_parquet(rows), params={"rows": form}).to_parquet(answers)
    except Exception as error:  # noqa: BLE001 - any exception ends this process
        place = traceback.extract_tb(error.__traceback__)[-1]
        name = f" of {error.name}" if isinstance(error, ImportError) and error.name else ""
        sys.exit(f"{type(error).__name__}{name} at {Path(place.filename).name}:{place.lineno}")
