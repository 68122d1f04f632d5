# The product and Airflow's components in one image. Which of them a container is, its command says.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1 UV_SYSTEM_PYTHON=1
RUN pip install --no-cache-dir uv==0.13.9

# The lock alone first: a change of our code does not download the packages again.
WORKDIR /opt/fracture
COPY requirements-server.lock ./
RUN uv pip install --require-hashes --requirement requirements-server.lock

COPY pyproject.toml README.md ./
COPY fracture_ml fracture_ml
COPY sql sql
COPY plugins plugins
COPY dags dags
RUN uv pip install --no-deps --editable . \
    && useradd --uid 10001 --create-home --shell /usr/sbin/nologin fracture \
    && mkdir -p /opt/airflow/logs /opt/cache \
    && chown -R fracture:fracture /opt/airflow /opt/cache

USER fracture
ENV AIRFLOW_HOME=/opt/airflow FRACTURE_CACHE_DIR=/opt/cache \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/fracture/dags AIRFLOW__CORE__PLUGINS_FOLDER=/opt/fracture/plugins
EXPOSE 8080
CMD ["airflow", "api-server"]
