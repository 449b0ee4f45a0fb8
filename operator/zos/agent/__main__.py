import sys

from zos.agent.main import main

sys.exit(main())
