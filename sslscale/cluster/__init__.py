"""Everything that runs on Ray: stages, training workers, trials of a search, jobs."""
