"""All benchmarks, or those named: `python benchmarks dm mtt --repeats 7`. See `suite.py`."""

import suite

if __name__ == "__main__":
    suite.main()
