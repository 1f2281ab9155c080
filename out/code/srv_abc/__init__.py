
import pandas as pd
class M:
    def predict(self, df, params=None):
        return pd.DataFrame({"p":df["a"].astype("float64")*2,"r":pd.Series([None]*len(df),dtype=object)})
def _load_pyfunc(path): return M()
