//! Saves and restores in this process: every sharding, replicas, deduplication, steps that exist, ranks that disagree.
