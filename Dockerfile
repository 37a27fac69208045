# One image for every part of SIEIS; the command says which. Versions are pinned; uv's is the Makefile's.
FROM python:3.11.13-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

FROM base AS build
WORKDIR /app
RUN pip install --no-cache-dir --disable-pip-version-check uv==0.13.9
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never
# The libraries by themselves: a change of our own code keeps this layer.
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN --mount=type=cache,target=/root/.cache/uv uv sync --frozen --no-dev --no-install-project
COPY sieis_platform sieis_platform
COPY sieis_streaming sieis_streaming
COPY sieis_api sieis_api
COPY sieis_cli sieis_cli
COPY sieis_ui sieis_ui
COPY workspace.yaml ./
RUN --mount=type=cache,target=/root/.cache/uv uv sync --frozen --no-dev

FROM base
# Everything that is kept lies in /var/lib/sieis: data under var/, and the .env that commands look for where they run.
RUN groupadd --gid 10001 sieis \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/sieis sieis \
    && install --directory --owner=sieis --group=sieis --mode=0750 /var/lib/sieis
COPY --from=build /app /app
ENV PATH=/app/.venv/bin:$PATH \
    SIEIS_DATA_DIR=/var/lib/sieis/var
USER 10001:10001
WORKDIR /var/lib/sieis
VOLUME /var/lib/sieis
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/api/v1/health', timeout=4)"]
CMD ["sieis", "api"]
