-- The roles and databases of a deployment. Run by a superuser in the database `postgres`; can be repeated.
-- parameters, from the environment: AIRFLOW_DATABASE_PASSWORD, FRACTURE_DATABASE_PASSWORD, FRACTURE_READER_PASSWORD

\set ON_ERROR_STOP on
\getenv airflow_password AIRFLOW_DATABASE_PASSWORD
\getenv fracture_password FRACTURE_DATABASE_PASSWORD
\getenv reader_password FRACTURE_READER_PASSWORD

SELECT format('CREATE ROLE %I LOGIN', role)
FROM unnest(ARRAY['airflow', 'fracture', 'fracture_reader']) AS role
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) \gexec
ALTER ROLE airflow PASSWORD :'airflow_password';
ALTER ROLE fracture PASSWORD :'fracture_password';
ALTER ROLE fracture_reader PASSWORD :'reader_password';

-- A role is owner of the database of its own name.
SELECT format('CREATE DATABASE %I OWNER %I', name, name)
FROM unnest(ARRAY['airflow', 'fracture']) AS name
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name) \gexec
REVOKE ALL ON DATABASE airflow, fracture FROM PUBLIC;
GRANT CONNECT ON DATABASE fracture TO fracture_reader;

-- The product's locks are advisory, and anybody may take them, or store large objects, unless that is taken away.
\connect fracture
SELECT format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', oid::regprocedure)
FROM pg_proc
WHERE pronamespace = 'pg_catalog'::regnamespace
  AND (proname LIKE 'pg\_%advisory%' OR proname LIKE 'lo\_%' OR proname IN ('loread', 'lowrite')) \gexec
SELECT format('GRANT EXECUTE ON FUNCTION %s TO fracture', oid::regprocedure)
FROM pg_proc
WHERE pronamespace = 'pg_catalog'::regnamespace AND proname LIKE 'pg\_%advisory%' \gexec
