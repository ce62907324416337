{{/* The pod of a worker. Takes root, component, pool (values of the pool) and gpu. */}}
{{- define "dkd-lab.workerTemplate" -}}
{{- $root := .root -}}
metadata:
  labels:
    {{- include "dkd-lab.labels" . | nindent 4 }}
spec:
  {{- include "dkd-lab.pod" (dict "root" $root "user" 10001 "group" 10001) | nindent 2 }}
  {{- include "dkd-lab.scheduling" .pool | nindent 2 }}
  {{- if and .gpu .pool.runtimeClassName }}
  runtimeClassName: {{ .pool.runtimeClassName }}
  {{- end }}
  terminationGracePeriodSeconds: {{ $root.Values.worker.terminationGracePeriodSeconds }}
  containers:
    - name: worker
      {{- include "dkd-lab.image" (dict "root" $root "image" $root.Values.images.worker) | nindent 6 }}
      {{- include "dkd-lab.container" $root | nindent 6 }}
      command: [python, -m, worker]
      env:
        - {name: DKD_API_URL, value: {{ printf "http://%s-backend:8000" (include "dkd-lab.fullname" $root) | quote }}}
        - {name: DKD_SECRETS, value: /secrets/broker}
        - {name: DKD_WORKER_TOKEN_FILE, value: /secrets/worker/token}
        {{- include "dkd-lab.artifactsEnv" $root | nindent 8 }}
        - {name: DKD_HOME, value: /var/lib/dkd}
        - {name: DKD_HEARTBEAT_FILE, value: /tmp/heartbeat}
        - name: DKD_WORKER_NAME
          valueFrom: {fieldRef: {fieldPath: {{ ternary "spec.nodeName" "metadata.name" (and .gpu (eq .pool.kind "DaemonSet")) }}}}
        - {name: DATA_DIR, value: /data}
        {{- if .gpu }}
        - {name: DKD_DEVICE, value: gpu} # without a GPU the worker does not start, instead of training on the CPU
        {{- end }}
        {{- include "dkd-lab.env" (merge (dict) .pool.env $root.Values.worker.env) | nindent 8 }}
      # The worker updates this file at every heartbeat, even if the backend does not answer.
      startupProbe:
        exec: &heartbeat {command: [sh, -c, "find /tmp/heartbeat -newermt '-90 seconds' | grep -q ."]}
        periodSeconds: 2
        timeoutSeconds: 5
        failureThreshold: 90
      readinessProbe:
        exec: *heartbeat
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 12
      livenessProbe:
        exec: *heartbeat
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 12
      resources:
        {{- $resources := deepCopy .pool.resources }}
        {{- if .gpu }}
        {{- $gpus := dict .pool.resourceName (toString .pool.gpusPerWorker) }}
        {{- $_ := set $resources "requests" (merge (dict) $gpus (default dict $resources.requests)) }}
        {{- $_ := set $resources "limits" (merge (dict) $gpus (default dict $resources.limits)) }}
        {{- end }}
        {{- toYaml $resources | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: shared-memory, mountPath: /dev/shm}
        - {name: home, mountPath: /var/lib/dkd}
        - {name: data, mountPath: /data, readOnly: {{ $root.Values.data.readOnly }}}
        {{- include "dkd-lab.artifactsMount" $root | nindent 8 }}
        {{- include "dkd-lab.secretMounts" (list "broker" "worker") | nindent 8 }}
  volumes:
    - {name: tmp, emptyDir: {}}
    - {name: shared-memory, emptyDir: {medium: Memory, sizeLimit: {{ .pool.sharedMemory }}}}
    # It has the identity of the worker, so that a container that is restarted is the same worker.
    - {name: home, emptyDir: {sizeLimit: {{ .pool.homeSize }}}}
    {{- if $root.Values.data.existingClaim }}
    - {name: data, persistentVolumeClaim: {claimName: {{ $root.Values.data.existingClaim | quote }}}}
    {{- else }}
    - {name: data, emptyDir: {}}
    {{- end }}
    {{- include "dkd-lab.artifactsVolume" $root | nindent 4 }}
    {{- include "dkd-lab.secretVolumes" (dict "root" $root "kinds" (list "broker" "worker")) | nindent 4 }}
{{- end -}}

{{/* The disruption budget of workers: a drained node loses one at a time. Takes root, component and pool. */}}
{{- define "dkd-lab.workerBudget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "dkd-lab.fullname" .root }}-{{ .component }}
  labels:
    {{- include "dkd-lab.labels" . | nindent 4 }}
spec:
  {{- toYaml .pool.podDisruptionBudget | nindent 2 }}
  selector:
    matchLabels:
      {{- include "dkd-lab.selector" . | nindent 6 }}
{{- end -}}
