"""`python -m tf_blocksparse_cli`: the command `tf-blocksparse`, where the scripts of Python are not on the path."""

import sys

from tf_blocksparse_cli.main import main

sys.exit(main())
