"""``python -m vedette``, which is how the supervisor starts its children."""

from vedette.cli import main

main()
