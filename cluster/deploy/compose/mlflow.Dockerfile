# The image with the packages that `mlflow server` needs for PostgreSQL, S3 and logins; clients need none of them.
FROM corrfractal:0.1.0
USER root
RUN pip install --no-cache-dir --disable-pip-version-check -c /app/requirements.lock boto3 psycopg2-binary==2.9.13 Flask-WTF==1.3.0
USER 10001
