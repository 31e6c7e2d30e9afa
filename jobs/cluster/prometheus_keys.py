"""The names in Prometheus' configuration. Source: Prometheus 3, "Configuration" and "Recording rules"."""

from __future__ import annotations

TOP = (
    *("alerting", "global", "otlp", "remote_read", "remote_write", "rule_files", "runtime", "scrape_config_files"),
    *("scrape_configs", "storage", "tracing"),
)
_LIMITS = (
    *("body_size_limit", "keep_dropped_targets", "label_limit", "label_name_length_limit", "sample_limit"),
    *("label_value_length_limit", "target_limit"),
)
_SCRAPE = (
    *("always_scrape_classic_histograms", "convert_classic_histograms_to_nhcb", "extra_scrape_metrics"),
    *("metric_name_escaping_scheme", "metric_name_validation_scheme", "scrape_failure_log_file", "scrape_interval"),
    *("scrape_native_histograms", "scrape_protocols", "scrape_timeout", *_LIMITS),
)
GLOBAL = ("evaluation_interval", "external_labels", "query_log_file", "rule_query_offset", *_SCRAPE)
_HTTP = (
    *("authorization", "basic_auth", "bearer_token", "bearer_token_file", "enable_http2", "follow_redirects"),
    *(
        "http_headers",
        "no_proxy",
        "oauth2",
        "proxy_connect_header",
        "proxy_from_environment",
        "proxy_url",
        "tls_config",
    ),
)
_DISCOVERY = (
    *("aws", "azure", "consul", "digitalocean", "dns", "docker", "dockerswarm", "ec2", "ecs", "eureka", "file"),
    *("gce", "hetzner", "http", "ionos", "kubernetes", "kuma", "lightsail", "linode", "marathon", "msk", "nerve"),
    *("nomad", "openstack", "ovhcloud", "puppetdb", "scaleway", "serverset", "stackit", "triton", "uyuni", "vultr"),
)
DISCOVERY = ("static_configs", *(f"{name}_sd_configs" for name in _DISCOVERY))
SCRAPE_CONFIG = (
    *("enable_compression", "fallback_scrape_protocol", "honor_labels", "honor_timestamps", "job_name"),
    *("metric_relabel_configs", "metrics_path", "native_histogram_bucket_limit", "params", "relabel_configs", "scheme"),
    *("native_histogram_min_bucket_factor", "scrape_classic_histograms", "track_timestamps_staleness"),
    *(*_SCRAPE, *_HTTP, *DISCOVERY),
)
STATIC = ("labels", "targets")
FILES = ("files", "refresh_interval")
RELABEL = ("action", "modulus", "regex", "replacement", "separator", "source_labels", "target_label")
RELABEL_ACTIONS = frozenset(
    {
        *("drop", "dropequal", "hashmod", "keep", "keepequal", "labeldrop", "labelkeep", "labelmap", "lowercase"),
        *("replace", "uppercase"),
    }
)
ALERTING = ("alert_relabel_configs", "alertmanagers")

GROUP = ("interval", "labels", "limit", "name", "partial_response_strategy", "query_offset", "rules")
RECORDING = ("expr", "labels", "record")
ALERT = ("alert", "annotations", "expr", "for", "keep_firing_for", "labels")
