#!/usr/bin/env bash
# Creates the two roles and the database. The Postgres image runs the scripts in
# /docker-entrypoint-initdb.d once, when it creates its data directory. If you run this script again, it
# sets the passwords again.
set -euo pipefail

secrets=${KEYWARD_SECRETS:-/run/secrets}
export secrets
# psql reads the passwords itself: others see the arguments of a command.
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname "${POSTGRES_DB:-postgres}" <<'SQL'
\set owner `cat "$secrets/owner.password"`
\set service `cat "$secrets/service.password"`
SELECT format('CREATE ROLE %I LOGIN', name)
FROM unnest(ARRAY['keyward_owner', 'keyward_service']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
ALTER ROLE keyward_owner PASSWORD :'owner';
ALTER ROLE keyward_service PASSWORD :'service';
SELECT 'CREATE DATABASE keyward OWNER keyward_owner'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'keyward') \gexec
SQL
