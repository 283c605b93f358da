{{- define "matrix.name" -}}
{{- printf "%s-matrix" .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "matrix.labels" -}}
app.kubernetes.io/name: matrix
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "matrix.selector" -}}
app.kubernetes.io/name: matrix
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "matrix.image" -}}
{{ required "image.repository is missing: the image of deploy/Dockerfile" .Values.image.repository }}:{{ .Values.image.tag }}
{{- end }}

{{- define "matrix.join" -}}
{{ .Values.join.secret | default (printf "%s-join" (include "matrix.name" .)) }}
{{- end }}

{{- define "matrix.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "matrix.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "matrix.scrape" -}}
{{- if .Values.metrics.enabled }}
annotations:
  prometheus.io/scrape: "true"
  prometheus.io/port: {{ .Values.metrics.port | quote }}
{{- end }}
{{- end }}

{{- define "matrix.probes" -}}
{{- if .Values.metrics.enabled }}
ports:
  - {name: metrics, containerPort: {{ .Values.metrics.port }}}
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 20
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
{{- end }}
{{- end }}
