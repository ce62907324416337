{{/* The name of the release's objects: the release's name, with the chart's name if it is not part of it. */}}
{{- define "dkd-lab.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels by which objects select pods. Takes root and component. */}}
{{- define "dkd-lab.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* All labels. Takes root and component. */}}
{{- define "dkd-lab.labels" -}}
{{ include "dkd-lab.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* The image and its pull policy. Takes root and image. */}}
{{- define "dkd-lab.image" -}}
image: {{ printf "%s:%s" .image.repository (default .root.Chart.AppVersion .image.tag) | quote }}
imagePullPolicy: {{ .image.pullPolicy }}
{{- end -}}

{{/* What all pods have. Takes root, user, group and optionally fsGroup. */}}
{{- define "dkd-lab.pod" -}}
serviceAccountName: {{ include "dkd-lab.fullname" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .user }}
  runAsGroup: {{ .group }}
  fsGroup: {{ .group }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* What all containers have. */}}
{{- define "dkd-lab.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  privileged: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where a pod may run. Takes the values of the component. */}}
{{- define "dkd-lab.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Environment variables of a map from names to texts; an empty text sets none. */}}
{{- define "dkd-lab.env" -}}
{{- range $name, $value := . }}
{{- if $value }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}
{{- end -}}

{{/* The artifact store and its keys. */}}
{{- define "dkd-lab.artifactsEnv" -}}
- {name: DKD_ARTIFACTS, value: {{ default "/artifacts" .Values.artifacts.url | quote }}}
{{- with .Values.artifacts.s3 }}
{{- if .endpointUrl }}
- {name: AWS_ENDPOINT_URL, value: {{ .endpointUrl | quote }}}
{{- end }}
{{- if .region }}
- {name: AWS_DEFAULT_REGION, value: {{ .region | quote }}}
{{- end }}
{{- if .existingSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: {secretKeyRef: {name: {{ .existingSecret | quote }}, key: AWS_ACCESS_KEY_ID}}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ .existingSecret | quote }}, key: AWS_SECRET_ACCESS_KEY}}
{{- end }}
{{- end }}
{{- end -}}

{{- define "dkd-lab.artifactsMount" -}}
{{- if not .Values.artifacts.url }}
- {name: artifacts, mountPath: /artifacts}
{{- end }}
{{- end -}}

{{- define "dkd-lab.artifactsVolume" -}}
{{- if not .Values.artifacts.url }}
- name: artifacts
  persistentVolumeClaim:
    claimName: {{ default (printf "%s-artifacts" (include "dkd-lab.fullname" .)) .Values.artifacts.persistence.existingClaim }}
{{- end }}
{{- end -}}

{{/* The Secret of a kind (admin, worker, dashboard, database, broker). Takes root and kind. */}}
{{- define "dkd-lab.secretName" -}}
{{- default (printf "%s-%s" (include "dkd-lab.fullname" .root) .kind) (index .root.Values.secrets .kind).existingSecret -}}
{{- end -}}

{{/* The mounts of secrets, each in a folder of its own, as in Compose. Takes a list of kinds. */}}
{{- define "dkd-lab.secretMounts" -}}
{{- range . }}
- {name: {{ . }}-secret, mountPath: /secrets/{{ . }}, readOnly: true}
{{- end }}
{{- end -}}

{{/* The volumes of these mounts. Takes root and kinds. */}}
{{- define "dkd-lab.secretVolumes" -}}
{{- $root := .root -}}
{{- range .kinds }}
- name: {{ . }}-secret
  secret: {secretName: {{ include "dkd-lab.secretName" (dict "root" $root "kind" .) | quote }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{/* A value of a Secret that exists in the cluster, or else a new random one. Takes root, kind and key. */}}
{{- define "dkd-lab.kept" -}}
{{- $name := printf "%s-%s" (include "dkd-lab.fullname" .root) .kind -}}
{{- $existing := lookup "v1" "Secret" .root.Release.Namespace $name -}}
{{- $value := "" -}}
{{- if $existing -}}
{{- $value = index (default dict $existing.data) .key | default "" | b64dec -}}
{{- end -}}
{{- default (printf "dkd_%s" (randAlphaNum 43)) $value -}}
{{- end -}}

{{/* A claim. Takes name, labels, persistence and optionally accessModes. */}}
{{- define "dkd-lab.claimSpec" -}}
accessModes: {{ toJson (default (list "ReadWriteOnce") .accessModes) }}
{{- if .persistence.storageClass }}
storageClassName: {{ .persistence.storageClass | quote }}
{{- end }}
resources: {requests: {storage: {{ .persistence.size }}}}
{{- end -}}

{{/* The origin of the pages behind the Ingress. */}}
{{- define "dkd-lab.origin" -}}
{{ ternary "https" "http" .Values.ingress.tls.enabled }}://{{ .Values.ingress.host }}
{{- end -}}

{{/* Reasons why the values cannot be used. */}}
{{- define "dkd-lab.validate" -}}
{{- if not (or .Values.postgresql.enabled .Values.postgresql.externalUrl .Values.secrets.database.existingSecret) -}}
{{- fail "postgresql.enabled is false: give postgresql.externalUrl or secrets.database.existingSecret" -}}
{{- end -}}
{{- if and .Values.postgresql.enabled .Values.postgresql.externalUrl -}}
{{- fail "postgresql.externalUrl: set postgresql.enabled to false to use another server" -}}
{{- end -}}
{{- if not (or .Values.redis.enabled .Values.redis.externalUrl .Values.secrets.broker.existingSecret) -}}
{{- fail "redis.enabled is false: give redis.externalUrl or secrets.broker.existingSecret" -}}
{{- end -}}
{{- if and .Values.redis.enabled .Values.redis.externalUrl -}}
{{- fail "redis.externalUrl: set redis.enabled to false to use another server" -}}
{{- end -}}
{{- if and .Values.worker.cpu.autoscaling.enabled .Values.worker.cpu.keda.enabled -}}
{{- fail "worker.cpu: enable autoscaling or keda, not both: each would undo what the other does" -}}
{{- end -}}
{{- end -}}
