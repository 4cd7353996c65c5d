"""Call functions of a client's script: `python call.py script.py`, in the client's environment.

It reads one call a line, `{"function": …, "arguments": {…}}`, and prints one result a line, `{"value": …}`, or
`{"error": traceback}` of a call that raised.
"""

import contextlib
import importlib.util
import json
import sys
import traceback


def main(path: str) -> None:
    spec = importlib.util.spec_from_file_location("script", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    # Clients look up the types of annotations there.
    sys.modules["script"] = script
    # Some clients print what they do.
    with contextlib.redirect_stdout(sys.stderr):
        spec.loader.exec_module(script)
        for line in sys.stdin:
            call = json.loads(line)
            try:
                result = {"value": getattr(script, call["function"])(**call["arguments"])}
            except Exception:
                result = {"error": traceback.format_exc()}
            print(json.dumps(result), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
