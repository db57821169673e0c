"""A program of its own: call main(dataset_dir, model_output_dir) of main.py in the working directory, as DDL does.

    python call_main.py DATASET_DIR OUTPUT_DIR [argument ...]

The working directory is first on sys.path and on PYTHONPATH, the arguments are sys.argv[1:]. An exception is a
traceback as of any script, and exit code 1. What main() returns becomes the job's result, unless it has written one, if
it is JSON. Run by the job's own Python, which may be older than ours: it imports nothing of ours.
"""
# ruff: noqa: I002

import json
import os
import sys
import types

#: As finish.RESULT_LIMIT.
_LIMIT = 48 * 1024


def run(dataset_dir: str, output_dir: str, arguments: list) -> int:
    """Make the place that main.py expects, and call it; the exit status."""
    root = os.getcwd()
    sys.path[0] = root  # it was our own folder, whose modules are none of the project's
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, before]))
    os.environ["JOBDEPLOY_DATASET_DIR"] = dataset_dir
    sys.argv = [os.path.join(root, "main.py"), *arguments]
    try:
        value = _called(dataset_dir, output_dir)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the project's own: shown as Python shows it
        _show(error)
        return 1
    keep(value, os.environ.get("JOBDEPLOY_RESULT_FILE", ""))
    return 0


def _called(dataset_dir: str, output_dir: str) -> object:
    main = __import__("main")  # the project's

    function = getattr(main, "main", None)
    if not callable(function):
        raise TypeError("main.py has no function main(dataset_dir, model_output_dir)")
    value = function(dataset_dir, output_dir)
    if isinstance(value, (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)):
        if isinstance(value, types.CoroutineType):
            value.close()  # else Python adds a warning of its own
        raise TypeError("main() gave a %s, whose code has not run: it must be a plain function" % type(value).__name__)
    return value


def _show(error: Exception) -> None:
    """The traceback without our own part of it, by whatever hook the project has set."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)


def keep(value: object, path: str) -> None:
    """Write what main() returned as the job's result: nothing where there is a result already, or no JSON value."""
    if value is None or not path or os.path.lexists(path):
        return
    try:
        data = json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        _say("main() returned a %s, which is not kept as the result: %s" % (type(value).__name__, error))
        return
    if len(data) > _LIMIT:
        _say("main() returned %d bytes of JSON, more than a result may hold (%d): not kept" % (len(data), _LIMIT))
        return
    beside = "%s.%d.new" % (path, os.getpid())
    try:
        with open(beside, "wb") as file:
            file.write(data)
        os.rename(beside, path)
    except OSError as error:
        _say("what main() returned could not be kept as the result: %s" % error)


def _say(line: str) -> None:
    sys.stdout.flush()
    print("[%s]" % line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2], sys.argv[3:]))
