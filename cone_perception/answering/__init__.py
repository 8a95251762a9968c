"""From a batch of pictures to its answers: inbox, workers, health."""
