"""The fitted artefact."""
