"""The application for ``twistd -ny jobproxy.tac``; all options come from the environment."""

from twisted.application.service import Application

from jobproxy.tap import Options, makeService

options = Options()
options.parseOptions([])

application = Application("jobproxy")
makeService(options).setServiceParent(application)
