{{- define "provident.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "provident.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "provident.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "provident.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "provident.selector" -}}
app.kubernetes.io/name: {{ include "provident.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "provident.labels" -}}
{{ include "provident.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "provident.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "provident.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "provident.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* What no schema can say. Called once, by the StatefulSet. */}}
{{- define "provident.check" -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" (include "provident.fullname" .)) -}}
{{- fail (printf "%q can't be the name of a Service, which begins with a letter and has letters, digits and dashes: set fullnameOverride" (include "provident.fullname" .)) -}}
{{- end -}}
{{- if not .Values.image.repository -}}
{{- fail "image.repository is not set: build the image from deploy/Dockerfile, push it to a registry that the cluster reaches, and name it there" -}}
{{- end -}}
{{- if not (.Values.insecure).acceptPlaintext -}}
{{- fail "this version speaks neither TLS nor knows its callers: keep strangers out (networkPolicy, or a mesh) and say so with insecure.acceptPlaintext=true" -}}
{{- end -}}
{{- if ne (int .Values.replicaCount) 1 -}}
{{- fail "replicaCount must be 1: the embedded journal lies on one volume that one process writes to" -}}
{{- end -}}
{{- if and (eq .Values.probes.kind "grpc") (semverCompare "<1.24.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "probes.kind=grpc needs Kubernetes 1.24 or later, here it is %s: set probes.kind to exec or http" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if and (not .Values.persistence.existingClaim) (lt (include "provident.gibibytes" . | float64) 2.0) -}}
{{- fail (printf "persistence.size is %s: with less than 2Gi there is no room for what the journal keeps in reserve" .Values.persistence.size) -}}
{{- end -}}
{{- if regexMatch "/v1/traces/?$" .Values.tracing.endpoint -}}
{{- fail "tracing.endpoint is the URL of the collector, without /v1/traces" -}}
{{- end -}}
{{- include "provident.checkConfig" . -}}
{{- include "provident.checkNames" . -}}
{{- with .Values.okta -}}
{{- if and .clientId (not .orgUrl) -}}
{{- fail "okta.clientId is set without okta.orgUrl: name the org to poll, such as https://acme.okta.com" -}}
{{- end -}}
{{- if and .orgUrl (not .existingSecret) -}}
{{- fail "okta.orgUrl is set without okta.existingSecret: name the Secret that has the private key or the API token" -}}
{{- end -}}
{{- if and .existingSecret (not .orgUrl) -}}
{{- fail "okta.existingSecret is set without okta.orgUrl: name the org to poll, such as https://acme.okta.com" -}}
{{- end -}}
{{- end -}}
{{- with .Values.hook -}}
{{- if and .ingress.enabled (not .enabled) -}}
{{- fail "hook.ingress.enabled is set without hook.enabled: there is nothing behind the ingress" -}}
{{- end -}}
{{- if and .ingress.enabled (or (not .ingress.host) (not .ingress.tlsSecret)) -}}
{{- fail "hook.ingress needs a host and a tlsSecret: Okta calls HTTPS alone" -}}
{{- end -}}
{{- end -}}
{{- include "provident.checkNetwork" . -}}
{{- end -}}

{{/* The volume's size, for comparing. */}}
{{- define "provident.gibibytes" -}}
{{- $unit := regexFind "[A-Za-z]*$" .Values.persistence.size -}}
{{- $per := dict "M" 1073.741824 "Mi" 1024.0 "G" 1.073741824 "Gi" 1.0 "T" 0.001073741824 "Ti" 0.0009765625 -}}
{{- divf (regexFind "^[0-9.]+" .Values.persistence.size | float64) (get $per $unit) -}}
{{- end -}}

{{- define "provident.checkConfig" -}}
{{- $config := fromToml .Values.config -}}
{{- if hasKey $config "Error" -}}
{{- fail (printf "config can't be read as TOML by this Helm: %s" $config.Error) -}}
{{- end -}}
{{- if eq (($config.journal).kind | default "embedded") "memory" -}}
{{- fail "journal.kind in config is memory, which forgets everything at a restart: the chart is for the embedded journal" -}}
{{- end -}}
{{- if or ($config.okta).org_url ($config.tracing).endpoint -}}
{{- fail "config has okta.org_url or tracing.endpoint: set the chart's values okta.orgUrl and tracing.endpoint, which open the network policy as well" -}}
{{- end -}}
{{- if and (not ($config.shutdown).drain_timeout) (lt (int .Values.terminationGracePeriodSeconds) 25) -}}
{{- fail "terminationGracePeriodSeconds is shorter than a drain may take (shutdown.drain_timeout in config, 20 s): make it 25 or more, or that one shorter" -}}
{{- end -}}
{{- $orgs := $config.orgs | default list -}}
{{- $of_orgs := dict -}}
{{- range $orgs -}}
{{- if .hook_secret_file -}}{{- $_ := set $of_orgs "hooks" true -}}{{- end -}}
{{- if .url -}}{{- $_ := set $of_orgs "urls" true -}}{{- end -}}
{{- end -}}
{{- if and .Values.okta.orgUrl (or (gt (len $orgs) 1) $of_orgs.urls) -}}
{{- fail "okta.orgUrl is for the only org: name url and login in each of [[orgs]] in config, and leave okta out" -}}
{{- end -}}
{{- with .Values.hook -}}
{{- if and .existingSecret (or (gt (len $orgs) 1) $of_orgs.hooks) -}}
{{- fail "hook.existingSecret is for the hooks of the only org: name a hook_secret_file in each of [[orgs]] in config, mount it with secretMounts, and leave hook.existingSecret out" -}}
{{- end -}}
{{- if and .enabled (not .existingSecret) (not $of_orgs.hooks) (not ($config.hook).secret_file) -}}
{{- fail "hook.enabled is set without hook.existingSecret: name the Secret that has what Okta sends as the Authorization header" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "provident.checkNames" -}}
{{- range $label := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/version" "app.kubernetes.io/managed-by" "helm.sh/chart" -}}
{{- if hasKey $.Values.podLabels $label -}}
{{- fail (printf "podLabels has %s, which the chart sets itself" $label) -}}
{{- end -}}
{{- end -}}
{{- $names := dict -}}
{{- if .Values.tracing.endpoint -}}
{{- $names = dict "POD_NAME" true "POD_NAMESPACE" true -}}
{{- end -}}
{{- range .Values.extraEnv -}}
{{- if or (hasKey $names .name) (has .name (list "PROVIDENT_CONFIG" "PROVIDENT_JOURNAL_KIND" "PROVIDENT_GRPC_ADDR" "PROVIDENT_HTTP_ADDR" "PROVIDENT_ADMIN_ADDR" "PROVIDENT_DATA_DIR" "PROVIDENT_ALLOW_PLAINTEXT" "PROVIDENT_OKTA_ORG_URL" "PROVIDENT_OKTA_CLIENT_ID" "PROVIDENT_OKTA_PRIVATE_KEY_FILE" "PROVIDENT_OKTA_PRIVATE_KEY_ID" "PROVIDENT_OKTA_API_TOKEN_FILE" "PROVIDENT_HOOK_SECRET_FILE" "PROVIDENT_HOOK_PREVIOUS_SECRET_FILE" "PROVIDENT_TRACING_ENDPOINT" "PROVIDENT_TRACING_SAMPLE_RATIO")) -}}
{{- fail (printf "extraEnv has %s, which is there twice, or which the chart sets by a value of its own" .name) -}}
{{- end -}}
{{- $_ := set $names .name true -}}
{{- end -}}
{{- $paths := dict "/data" true "/etc/provident" true "/secrets/okta" .Values.okta.orgUrl "/secrets/hook" .Values.hook.existingSecret -}}
{{- range .Values.secretMounts -}}
{{- if get $paths .mountPath -}}
{{- fail (printf "secretMounts has the path %s, where something is mounted already" .mountPath) -}}
{{- end -}}
{{- $_ := set $paths .mountPath true -}}
{{- end -}}
{{- end -}}

{{- define "provident.checkNetwork" -}}
{{- $monitored := or .Values.metrics.podMonitor.enabled .Values.metrics.serviceMonitor.enabled -}}
{{- if and .Values.metrics.podMonitor.enabled .Values.metrics.serviceMonitor.enabled -}}
{{- fail "metrics.podMonitor and metrics.serviceMonitor are both enabled, so everything would count twice: leave one out" -}}
{{- end -}}
{{- with .Values.networkPolicy -}}
{{- if and .enabled $monitored (not .adminFrom) -}}
{{- fail "a monitor is enabled, and networkPolicy.adminFrom lets nobody scrape: name your Prometheus there, such as {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}" -}}
{{- end -}}
{{- if and .enabled $.Values.hook.ingress.enabled (not .hookFrom) -}}
{{- fail "hook.ingress is enabled, and networkPolicy.hookFrom lets nobody bring hooks: name your ingress controller there, such as {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ingress-nginx}}}" -}}
{{- end -}}
{{- end -}}
{{- end -}}
