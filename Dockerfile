# Two stages: the first has pip and its caches, the second only what was installed.
FROM python:3.11.14-slim-bookworm AS build

WORKDIR /src
RUN python -m venv /opt/expunge
COPY requirements.lock ./
RUN /opt/expunge/bin/pip install --no-cache-dir --disable-pip-version-check --only-binary :all: \
    --require-hashes -r requirements.lock
COPY pyproject.toml README.md ./
COPY worker ./worker
COPY tasks ./tasks
RUN /opt/expunge/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps .

FROM python:3.11.14-slim-bookworm

RUN groupadd --gid 10001 expunge \
    && useradd --uid 10001 --gid 10001 --create-home --shell /usr/sbin/nologin expunge
COPY --from=build /opt/expunge /opt/expunge
COPY examples/customers.csv /opt/expunge/examples/customers.csv
ENV PATH="/opt/expunge/bin:$PATH" \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /home/expunge
ENTRYPOINT ["expunge"]
CMD ["--help"]
