"""`python -m hf_ddistill.cli`, which launchers of several processes can start."""

from hf_ddistill.cli import main

raise SystemExit(main())
