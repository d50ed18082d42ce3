"""Errors that the user can fix: one clear line and an exit code, no traceback.

Anything else that is raised is our own bug and keeps its traceback. Exit codes: 1 a stage failed for another
reason, 2 usage or configuration, 3 data, 4 resources, 130 interrupted (SIGINT), 143 terminated (SIGTERM).
"""


class UserError(Exception):
    """Says what is wrong, where, and what to do; shown without a traceback."""

    exit_code = 1


class ConfigError(UserError):
    """One or more errors in a configuration or on the command line."""

    exit_code = 2


class DataError(UserError):
    """A shard, an image, a label or a checkpoint that cannot be used as it is."""

    exit_code = 3


class ResourceError(UserError):
    """Disk, memory, workers or a lock that the run needs and cannot have."""

    exit_code = 4


class Stopped(UserError):
    """A stage that ended early because it was asked to, after it had saved its state."""

    exit_code = 143
