"""The cells of a sweep as jobs of a cluster, over submitit."""
