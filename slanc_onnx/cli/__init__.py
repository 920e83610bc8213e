"""The command line: the only place that prints and sets exit codes.

Takes the words of a command, does a job for each model that they name, writes its reports and
prints. Each model is judged by itself, and the status is that of the worst. Whatever happens to the
process, by a signal or a stream that is closed, ends as a status too.
"""

from slanc_onnx.cli.command import main

__all__ = ["main"]
