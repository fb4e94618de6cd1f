"""What is wrong with the user's input, said in one sentence: key, value, rule, remedy."""


class ConfigError(ValueError):
    """A run that cannot be what its YAML, its overrides or its layout say. The command ends with exit code 2."""
