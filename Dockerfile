# One node. The base is any Debian that has python3, 3.11 or newer: an argument, so that one at hand can be used.
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN python3 -m venv /opt/pgcat-cluster && /opt/pgcat-cluster/bin/pip install --no-cache-dir /source

FROM ${BASE}
RUN groupadd --system --gid 10001 pgcat \
    && useradd --system --uid 10001 --gid pgcat --no-create-home --shell /usr/sbin/nologin pgcat
COPY --from=build /opt/pgcat-cluster /opt/pgcat-cluster
ENV PATH=/opt/pgcat-cluster/bin:$PATH PYTHONUNBUFFERED=1
USER pgcat
EXPOSE 6432 9930
# SIGTERM drains; give it the time that shutdown_timeout allows.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=2s --start-period=5s \
    CMD ["python3", "-c", "import urllib.request as http; http.urlopen('http://127.0.0.1:9930/ready', timeout=2)"]
ENTRYPOINT ["pgcat-cluster"]
CMD ["run", "--config", "/etc/pgcat-cluster/node.toml"]
