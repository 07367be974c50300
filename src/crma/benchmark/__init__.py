"""The benchmark as it is run: streams of domains, recipes, conditions. What it measures with stands in `crma.bench`."""
