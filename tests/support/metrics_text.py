"""The text of /metrics, read as Prometheus reads it."""

from collections import defaultdict

from prometheus_client.parser import text_string_to_metric_families

Samples = dict[str, dict[tuple[str, ...], float]]


def read(text: str) -> Samples:
    """Return the samples by name and by the values of their labels, in the labels' order."""
    found: Samples = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name][tuple(value for _, value in sorted(sample.labels.items()))] = (
                sample.value
            )
    return found
