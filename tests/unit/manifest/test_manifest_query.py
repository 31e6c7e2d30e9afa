from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from manifest_builders import PROVENANCE, START, DictStore, failed_result, make_shard, ok_result

from pipeline.errors import QueryError
from pipeline.manifest import Manifest, commit_part, open_manifest, run_query


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    store = DictStore()
    for plan, results in ((1, [ok_result("a.jpg"), ok_result("b.jpg")]), (2, [failed_result("b.jpg")])):
        commit_part(store, results, make_shard(*results, plan=plan), 1, PROVENANCE)
    return open_manifest(store)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT source, status FROM manifest ORDER BY source", [("a.jpg", "ok"), ("b.jpg", "failed")]),
        ("SELECT count(*) FROM manifest_history", [(3,)]),
        ("FROM manifest SELECT max(plan)", [(2,)]),
        ("WITH x AS (SELECT * FROM manifest_history WHERE plan = 1) SELECT sum(width) FROM x", [(6000,)]),
        ("VALUES (1, 'x');", [(1, "x")]),
        ("SELECT unnest(warnings) FROM manifest ORDER BY 1", [("gain_map",), ("multi_picture",)]),
        ("SELECT started_at FROM manifest LIMIT 1", [(START,)]),
        ("SELECT hour(started_at) FROM manifest LIMIT 1", [(12,)]),  # UTC, whatever this machine's zone
        ("SELECT error_code, width FROM manifest WHERE status <> 'ok'", [("decode_truncated", None)]),
        ("PIVOT manifest_history ON status IN ('ok', 'failed') USING count(*) GROUP BY plan ORDER BY plan",
         [(1, 2, 0), (2, 0, 1)]),
        ("SELECT source FROM manifest WHERE false", []),
    ],
)  # fmt: skip
def test_selects_answer(manifest: Manifest, sql: str, expected: list[tuple[object, ...]]) -> None:
    assert [tuple(row.values()) for row in run_query(manifest, sql).to_pylist()] == expected


def test_describe_show_and_summarize_are_selects(manifest: Manifest) -> None:
    described = run_query(manifest, "DESCRIBE manifest")
    assert described["column_name"].to_pylist() == manifest.history.schema.names
    assert run_query(manifest, "SHOW TABLES")["name"].to_pylist() == ["manifest", "manifest_history"]
    assert run_query(manifest, "SUMMARIZE manifest").num_rows == len(manifest.history.schema)


def test_integer_sums_are_plain_integers_unless_they_do_not_fit(manifest: Manifest) -> None:
    assert run_query(manifest, "SELECT sum(output_bytes) AS b FROM manifest").schema.field("b").type == pa.int64()
    huge = run_query(manifest, "SELECT sum(x) AS b FROM (VALUES (9223372036854775807), (1)) t(x)")
    assert int(huge["b"][0].as_py()) == 2**63


def test_a_projected_manifest_answers_from_what_it_has() -> None:
    store = DictStore()
    result = ok_result("a.jpg")
    commit_part(store, [result], make_shard(result), 1, PROVENANCE)
    narrow = open_manifest(store, columns=["status"])

    assert run_query(narrow, "SELECT status FROM manifest").to_pylist() == [{"status": "ok"}]
    with pytest.raises(QueryError, match="width"):
        run_query(narrow, "SELECT width FROM manifest")


def refused(manifest: Manifest, sql: str, **options: object) -> str:
    with pytest.raises(QueryError) as caught:
        run_query(manifest, sql, **options)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def test_a_name_that_is_not_there_is_answered_with_those_that_are(manifest: Manifest) -> None:
    assert refused(manifest, "SELECT * FROM manifst").endswith("The views are manifest and manifest_history")
    assert '"status"' in refused(manifest, "SELECT statu FROM manifest")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_blob('/etc/passwd')",
        "SELECT * FROM read_text('/proc/self/environ')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_csv_auto('/etc/passwd')",
        "SELECT * FROM sniff_csv('/etc/passwd')",
        "SELECT * FROM read_json('/etc/passwd')",
        "SELECT * FROM read_parquet('/etc/passwd')",
        "SELECT * FROM parquet_metadata('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM 'x.parquet'",
        "SELECT * FROM 's3://bucket/x.parquet'",
        "SELECT * FROM 'https://example.invalid/x.parquet'",
        "SELECT * FROM glob('*')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')",
        "FROM destroy_external_resource('read_text', '/etc/passwd')",
        "SELECT * FROM duckdb_secrets()",
        "SELECT * FROM which_secret('s3://x', 's3')",
        "SELECT * FROM duckdb_extensions()",
        "SELECT getenv('HOME')",
        "SELECT load_aws_credentials()",
        "SELECT * FROM enable_logging()",
        "SELECT * FROM enable_profiling(save_location = 'profile.json')",
        "SELECT * FROM read_ndjson('/etc/passwd')",
        "SELECT * FROM read_text(['/etc/passwd', '/etc/hosts'])",
        "SELECT content FROM read_blob('file:///etc/passwd')",
        "SELECT (SELECT content FROM read_text('/etc/passwd'))",
        "WITH x AS (SELECT * FROM read_text('/etc/passwd')) SELECT * FROM x",
        "SELECT * FROM query_table('/etc/passwd')",
        "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('FROM read_text(''/etc/passwd'')'))",
        "DESCRIBE SELECT * FROM '/etc/passwd'",
        "SUMMARIZE 'x.parquet'",
        "SELECT * FROM arrow_scan(1, 2, 3)",
        "SELECT * FROM pandas_scan(1)",
        "SELECT * FROM sqlite_scan('x.db', 't')",
        "COPY manifest FROM 'x.parquet'",
        "COPY manifest TO 'stolen.csv'",
        "COPY (SELECT 1) TO 'stolen.parquet' (FORMAT parquet)",
        "SELECT * FROM query('COPY manifest TO ''stolen.csv''')",
        "EXPORT DATABASE 'stolen'",
        "IMPORT DATABASE 'stolen'",
        "ATTACH 'other.db'",
        "ATTACH ':memory:' AS other",
        "DETACH memory",
        "USE memory",
        "INSTALL httpfs",
        "LOAD httpfs",
        "FORCE INSTALL httpfs FROM 'http://127.0.0.1:1'",
        "INSTALL httpfs FROM community",
        "UPDATE EXTENSIONS",
        "ATTACH 'https://example.invalid/x.db'",
        "PRAGMA database_list",
        "PRAGMA version",
        "CALL pragma_version()",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "RESET enable_external_access",
        "CREATE TABLE x AS SELECT 1",
        "CREATE SECRET (TYPE s3)",
        "CREATE MACRO f() AS 1",
        "CREATE VIEW manifest AS SELECT 1",
        "INSERT INTO manifest SELECT * FROM manifest",
        "UPDATE manifest SET status = 'ok'",
        "DELETE FROM manifest",
        "DROP VIEW manifest",
        "ALTER TABLE manifest ADD COLUMN x INT",
        "MERGE INTO manifest USING manifest_history ON true WHEN MATCHED THEN DELETE",
        "COMMENT ON VIEW manifest IS 'x'",
        "CREATE TEMP TABLE x AS FROM manifest",
        "BEGIN TRANSACTION",
        "CHECKPOINT",
        "VACUUM",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "EXPLAIN ANALYZE SELECT 1",
        "SET VARIABLE x = 1",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP VIEW manifest",
        "",
        "  -- nothing",
        ";",
    ],
)
def test_nothing_but_one_select_over_the_views_gets_through(
    manifest: Manifest, sql: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")

    refused(manifest, sql)

    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]


def test_python_variables_are_out_of_sight(manifest: Manifest) -> None:
    secret_rows = pa.table({"secret": ["hunter2"]})

    assert "secret_rows" in refused(manifest, "SELECT * FROM secret_rows")
    assert "secret_rows" in refused(manifest, "SELECT * FROM query('SELECT * FROM secret_rows')")
    assert "manifest_rows" in refused(manifest, "SELECT * FROM manifest_rows")
    assert secret_rows.num_rows == 1


def test_settings_do_not_tell_about_this_machine(manifest: Manifest) -> None:
    settings = run_query(manifest, "SELECT value FROM duckdb_settings() WHERE contains(value, '/')")
    home = str(Path.home())

    assert not [row for row in settings.to_pylist() if home in row["value"]]


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("SELEC source FROM manifest", "syntax error"),
        ("SELECT nonsense FROM manifest", "nonsense"),
        ("SELECT * FROM nowhere", "nowhere"),
        ("SELECT width + FROM manifest", "syntax error"),
        ("SELECT $1", "parameter"),
        ("SELECT CAST('x' AS INT)", "Could not convert"),
        ("DROP TABLE manifest", "only SELECT statements are allowed, not DROP"),
        ("PIVOT manifest ON status", "not MULTI"),
        ("SELECT 1; SELECT 2", "expected one SELECT statement, found 2"),
    ],
)
def test_errors_say_what_is_wrong(manifest: Manifest, sql: str, told: str) -> None:
    assert told in refused(manifest, sql)


def test_a_query_that_takes_too_long_is_stopped(manifest: Manifest) -> None:
    endless = "SELECT count(*) FROM range(1000000000) a, range(1000000000) b WHERE a.range % 7 = b.range % 11"

    assert "took longer than 0.05 s" in refused(manifest, endless, timeout_s=0.05)


def test_a_query_that_a_signal_ends_is_an_interrupt(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> pa.Table:
        raise RuntimeError("Query interrupted")  # what DuckDB makes of a handler's exception

    monkeypatch.setattr("pipeline.manifest.query._fetch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_query(manifest, "select 1")


def test_a_query_within_its_time_answers(manifest: Manifest) -> None:
    assert run_query(manifest, "SELECT count(*) AS n FROM manifest", timeout_s=60).to_pylist() == [{"n": 2}]


def test_a_query_that_eats_memory_is_stopped(manifest: Manifest) -> None:
    greedy = "SELECT array_agg(range) FROM range(50000000)"

    assert "memory" in refused(manifest, greedy, memory_limit_bytes=64 * 2**20).lower()


def test_the_manifest_is_untouched_by_queries(manifest: Manifest) -> None:
    before = manifest.history.to_pylist()
    refused(manifest, "DELETE FROM manifest")
    run_query(manifest, "SELECT * FROM manifest")

    assert manifest.history.to_pylist() == before
