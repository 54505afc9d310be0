"""`python -m tf_blocksparse`: the same as the command `tf-blocksparse`."""

import sys

from tf_blocksparse_cli.main import main

sys.exit(main())
