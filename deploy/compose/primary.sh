#!/usr/bin/env bash
# Run once by the image of PostgreSQL, on the primary: the users and the database that a node and replicas need.
set -euo pipefail

psql --set=ON_ERROR_STOP=1 --username=postgres --dbname=postgres \
    --set=replicator="$REPLICATOR_PASSWORD" --set=probe="$PROBE_PASSWORD" --set=test="$TEST_PASSWORD" <<'SQL'
create role replicator login replication password :'replicator';
create role pgcat_probe login password :'probe' in role pg_monitor;
create role test login password :'test';
create database test owner test;
SQL

echo "host replication replicator all scram-sha-256" >>"$PGDATA/pg_hba.conf"
