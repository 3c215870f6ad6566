#!/usr/bin/env bash
# Makes the two roles and the database, once, when Postgres makes its data directory: the image runs
# what stands in /docker-entrypoint-initdb.d. It may be run again; then it sets the passwords.
set -euo pipefail

secrets=${KEYWARD_SECRETS:-/run/secrets}
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname "${POSTGRES_DB:-postgres}" \
    --set owner="$(cat "$secrets/owner.password")" --set service="$(cat "$secrets/service.password")" <<'SQL'
SELECT format('CREATE ROLE %I LOGIN', name)
FROM unnest(ARRAY['keyward_owner', 'keyward_service']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
ALTER ROLE keyward_owner PASSWORD :'owner';
ALTER ROLE keyward_service PASSWORD :'service';
SELECT 'CREATE DATABASE keyward OWNER keyward_owner'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'keyward') \gexec
SQL
