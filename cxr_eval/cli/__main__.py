"""`python -m cxr_eval.cli`, where the command is not on the path."""

from cxr_eval.cli import main

main(prog_name="cxr-eval")
