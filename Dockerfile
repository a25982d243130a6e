# tabrt on a CPU, or with EXTRAS=cuda on a GPU: see docs/containers.md.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
ARG EXTRAS=serve,osc
RUN python3 -m venv /opt/tabrt
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY tabrt tabrt
COPY tools/install-for-container tools/
RUN bash tools/install-for-container /opt/tabrt "${EXTRAS}"

FROM ${BASE}
COPY --from=build /opt/tabrt /opt/tabrt
# Nothing is written but what is asked for, and so the root may be read-only.
ENV PATH=/opt/tabrt/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
RUN useradd --uid 1000 --no-create-home --shell /usr/sbin/nologin tabrt && mkdir -p /work && chown tabrt /work
USER 1000
WORKDIR /work
# A live run with --metrics-port is asked for its numbers; anything else is well while it runs.
HEALTHCHECK --start-period=20s CMD test -z "$TABRT_METRICS_PORT" || python3 -c "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['TABRT_METRICS_PORT'] + '/metrics', timeout=5)"
ENTRYPOINT ["tabrt"]
CMD ["--help"]
