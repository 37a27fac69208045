-- Run once, on an empty volume: the database of the operational state is made by the image itself (POSTGRES_DB).
CREATE DATABASE dagster;
CREATE DATABASE mlflow;
